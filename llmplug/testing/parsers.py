"""Check the parsers of a dialect: what is written is read, in any pieces, in linear time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from llmplug.chat.round_trip import NotShown, find_call_problem, find_thinking_problem
from llmplug.dialect import CustomCalls
from llmplug.testing.call_writing import Call
from llmplug.testing.expect import expect, need
from llmplug.testing.template_renderer import make_renderer

if TYPE_CHECKING:
    from llmplug.chat.render import ChatRenderer
    from llmplug.specs import ReasoningParserSpec, ToolParserSpec

# Of each text whose reading is timed: enough for what is quadratic to show.
_SPEED_CHARS = 20_000


def check_tool_parser(
    spec: ToolParserSpec,
    *,
    reasoning: ReasoningParserSpec | None = None,
    write: Callable[[Sequence[Call]], str] | None = None,
    template: str | None = None,
    tokens: Sequence[str] = (),
    heads: Sequence[str] = (),
    num_examples: int = 60,
    num_chars: int = _SPEED_CHARS,
) -> None:
    """Try a parser of tool calls on what models write, and on what they should not.

    Calls are read as they were written, byte for byte, beside content and thinking, and all the
    same in single characters and cut at random; garbage neither raises nor loses text; without
    tools in the request nothing is a call; texts that the grammar of forced calls allows are read
    as whole calls; nothing takes more than linear time.

    Args:
        spec: from `llmplug_tool_parsers()`.
        reasoning: how the same family writes thinking.
        write: writes calls as the family does; needed where the spec has no table that says it.
        template: chat template of a model of the family: it is detected, and a call that it
            writes is read back.
        tokens: texts of the template's control tokens.
        heads: beginnings of answers that are to be timed too.
        num_examples: of each property; hypothesis makes them up.
        num_chars: of each text that is timed; 0: none is.

    Raises:
        AssertionError: says which text is read as what.
    """
    need("hypothesis")
    from llmplug.testing.dialect_properties import check_dialect
    from llmplug.testing.reading_speed import check_speed

    expect(
        bool(spec.syntax) or spec.make is not None,
        f"the parser {spec.name!r} reads nothing: give tables in `syntax`, or `make`",
    )
    has_no_writer = not spec.syntax or any(isinstance(each, CustomCalls) for each in spec.syntax)
    expect(
        write is not None or not has_no_writer,
        f"the parser {spec.name!r} has calls that no table writes: give `write`, which writes "
        "calls as the family does",
    )
    check_dialect(spec, reasoning, write=write, num_examples=num_examples)
    begun = () if write is None else (write([Call("f", {"text": "x"})]).partition("x")[0],)
    if num_chars:
        check_speed(spec, reasoning, num_chars=num_chars, heads=(*begun, *heads))
    if template is not None:
        renderer = _detect(spec, template, tokens)
        _expect_read_back(lambda: find_call_problem(renderer, reasoning, spec), "calls")


def check_reasoning_parser(
    spec: ReasoningParserSpec,
    *,
    template: str | None = None,
    tokens: Sequence[str] = (),
    num_examples: int = 60,
    num_chars: int = _SPEED_CHARS,
) -> None:
    """Try a parser of thinking on what models write, and on what they should not.

    Thinking and content are told apart, also where the prompt has opened the block or the answer
    breaks off within, and all the same in single characters and cut at random; garbage neither
    raises nor loses text; nothing takes more than linear time.

    Args:
        spec: from `llmplug_reasoning_parsers()`.
        template: chat template of a model of the family: it is detected, and a thought that it
            writes is read back.
        tokens: texts of the template's control tokens.
        num_examples: of each property; hypothesis makes them up.
        num_chars: of each text that is timed; 0: none is.

    Raises:
        AssertionError: says which text is read as what.
    """
    need("hypothesis")
    from llmplug.testing.dialect_properties import check_dialect
    from llmplug.testing.reading_speed import check_speed

    expect(
        spec.syntax is not None or spec.make is not None,
        f"the parser {spec.name!r} reads nothing: give `syntax`, or `make`",
    )
    check_dialect(None, spec, num_examples=num_examples)
    if num_chars:
        check_speed(None, spec, num_chars=num_chars)
    if template is not None:
        renderer = _detect(spec, template, tokens)
        _expect_read_back(lambda: find_thinking_problem(renderer, spec), "thoughts")


def _detect(
    spec: ToolParserSpec | ReasoningParserSpec, template: str, tokens: Sequence[str]
) -> ChatRenderer:
    """See that a template is known for the dialect, and an empty one is not; make a renderer."""
    match = spec.detect(template, {}, frozenset(tokens))
    expect(
        0 < match.score <= 1 and bool(match.reason),
        f"`detect` of {spec.name!r} gives {match} for the template: a score over 0, up to 1, and "
        "a reason that the start can print",
    )
    return make_renderer(template, tokens)


def _expect_read_back(find_problem: Callable[[], str | None], what: str) -> None:
    try:
        problem = find_problem()
    except NotShown as error:
        raise AssertionError(f"{error}: give a template that shows {what}") from error
    expect(problem is None, f"{what} that the template writes are not read back: {problem}")
