"""What must hold for any dialect, as properties that its own tests call.

`check_dialect(tools, reasoning)` checks them all (`from tests.chat.dialect_properties import
check_dialect`): answers written in the dialect are read back
byte for byte, no cut of the text changes what is read, garbage neither raises nor loses text, and
forced calls are read as the calls that they are.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmplug import ReasoningParserSpec, ToolParserSpec
from llmplug.chat.call_grammar import build_call_grammar
from llmplug.chat.calls import start_markers
from llmplug.chat.channels import make_parser
from llmplug.dialect import (
    AnswerContext,
    CallArguments,
    CallEnd,
    CallStart,
    CallSyntax,
    Content,
    Event,
    JsonCalls,
    NamedCalls,
    Reasoning,
    Tool,
)

from .call_writing import Call, write_calls
from .grammar_texts import NotSampled, texts_of

PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "count": {"type": "integer"},
        "is_on": {"type": "boolean"},
        "items": {"type": "array", "items": {"type": "string"}},
        "more": {"type": "object", "properties": {"deep": {"type": "string"}}},
    },
    "required": ["text"],
}
TOOLS = (Tool("get_time", PARAMETERS), Tool("find", PARAMETERS), Tool("f", PARAMETERS))
NASTY = [
    '"', "\\", "\\n", "\n", "{", "}", "[", "]", "<", ">", "'", ",", ":", "é", "✓", "🎉", "\u2028",
    "```",
]  # fmt: skip

WriteCalls = Callable[[Sequence[Call]], str]


# --- reading ------------------------------------------------------------------------------------
@dataclass
class ReadCall:
    """A call as it was read."""

    name: str
    arguments: str = ""
    id: str | None = None
    is_complete: bool = False


@dataclass
class Answer:
    """What a parser made of an answer; `parts` keeps the order, neighbours of a kind in one."""

    content: str = ""
    reasoning: str = ""
    calls: list[ReadCall] = field(default_factory=list)
    parts: list[tuple[str, str]] = field(default_factory=list)


def join(events: Iterable[Event]) -> Answer:
    """Put events together, and see that they come in an order that clients can follow."""
    answer = Answer()
    is_open = False
    for event in events:
        match event:
            case Content(text):
                answer.content += text
            case Reasoning(text):
                answer.reasoning += text
            case CallStart(index, name, call_id):
                assert not is_open, "calls do not overlap"
                assert index == len(answer.calls), "calls are numbered from 0"
                assert name, "a call has a name"
                answer.calls.append(ReadCall(name, id=call_id))
                is_open = True
            case CallArguments(index, text):
                assert is_open
                assert index == len(answer.calls) - 1
                answer.calls[-1].arguments += text
            case CallEnd(index, is_complete):
                assert is_open
                assert index == len(answer.calls) - 1
                answer.calls[-1].is_complete = is_complete
                is_open = False
        _add_part(answer, event)
    assert not is_open, "every call ends"
    for call in answer.calls:
        if call.is_complete:
            assert isinstance(json.loads(call.arguments), dict), "whole arguments are an object"
    return answer


def _add_part(answer: Answer, event: Event) -> None:
    kind = type(event).__name__
    text = getattr(event, "text", "")
    if kind in {"Content", "Reasoning"} and not text:
        return
    if answer.parts and answer.parts[-1][0] == kind and text:
        answer.parts[-1] = (kind, answer.parts[-1][1] + text)
    else:
        answer.parts.append((kind, text or repr(event)))


def read(
    pieces: Sequence[str],
    tools: ToolParserSpec | None,
    reasoning: ReasoningParserSpec | None = None,
    *,
    prompt_end: str = "",
    callable_tools: tuple[Tool, ...] = TOOLS,
) -> Answer:
    """Read an answer that comes in pieces."""
    context = AnswerContext(tools=callable_tools, prompt_end=prompt_end)
    parser = make_parser(reasoning, tools, context)

    return join([event for piece in pieces for event in parser.feed(piece)] + parser.finish())


def cut(text: str, places: Sequence[int]) -> list[str]:
    """Cut a text at some places."""
    edges = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[start:end] for start, end in itertools.pairwise(edges)]


# --- markers ------------------------------------------------------------------------------------
def call_markers(tools: ToolParserSpec | None) -> list[str]:
    """Every text of the tables that stands round values."""
    return [] if tools is None else [m for table in tools.syntax for m in _texts_in(table)]


def _texts_in(table: CallSyntax) -> Iterator[str]:
    for name in table.__dataclass_fields__:
        if name in {"holds", "name_key", "arguments_key", "name_pattern", "name_format", "pad"}:
            continue
        value = getattr(table, name)
        for each in _flatten(value):
            if each.strip():
                yield each.strip()


def _flatten(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from value
    elif isinstance(value, tuple):
        for each in value:
            yield from _flatten(each)


def thinking_markers(reasoning: ReasoningParserSpec | None) -> list[str]:
    """The markers round thinking, and those round answers."""
    if reasoning is None or reasoning.syntax is None:
        return []
    syntax = reasoning.syntax
    around = (*(syntax.answer or ()), *syntax.dropped)
    return [marker.strip() for marker in (*syntax.start, syntax.end, *around)]


# --- strategies ---------------------------------------------------------------------------------
def plain_texts(markers: Sequence[str]) -> st.SearchStrategy[str]:
    """Texts that are no marker but may look like the beginning of one."""
    begun = [marker[:-1] + "." for marker in markers if len(marker) > 1]
    words = st.sampled_from(["Hello", " ", "\n", "wörld", "a < b", "✓", "f(x)", "{", "]", *begun])
    texts = st.lists(words, max_size=6).map(lambda parts: "so " + "".join(parts) + " ok.")
    return texts.filter(lambda text: not any(marker in text for marker in markers))


def values(strings: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    """Arguments that fit `PARAMETERS`."""
    return st.fixed_dictionaries(
        {"text": strings},
        optional={
            "count": st.integers(-(10**20), 10**20),
            "is_on": st.booleans(),
            "items": st.lists(strings, max_size=3),
            "more": st.fixed_dictionaries({}, optional={"deep": strings}),
        },
    )


def call_lists(markers: Sequence[str], *, has_escapes: bool) -> st.SearchStrategy[list[Call]]:
    """Calls; strings that cannot be escaped hold no marker."""
    pieces = st.sampled_from([*NASTY, "a", " ", "007", "true", *(markers if has_escapes else ())])
    strings = st.lists(pieces, max_size=5).map("".join)
    if not has_escapes:  # nor what becomes one together with what follows
        strings = strings.map(lambda text: f"x{text}x")
        strings = strings.filter(lambda text: not any(marker in text for marker in markers))
    names = st.sampled_from([tool.name for tool in TOOLS])
    styles = st.sampled_from([(", ", ": "), (",", ":"), (" ,\n", " : ")])
    one = st.builds(Call, names, values(strings), styles, st.booleans())
    return st.lists(one, min_size=1, max_size=3)


# --- properties ---------------------------------------------------------------------------------
def check_dialect(
    tools: ToolParserSpec | None,
    reasoning: ReasoningParserSpec | None = None,
    *,
    write: WriteCalls | None = None,
    num_examples: int = 60,
) -> None:
    """Check everything that must hold for a dialect.

    Args:
        tools: how calls are written, if they are.
        reasoning: how thinking is written, if it is.
        write: writes calls as the family does, where they are read by hand; None: by each table.
        num_examples: of each property.
    """
    check_reading(tools, reasoning, write=write, num_examples=num_examples)
    check_garbage(tools, reasoning, num_examples=num_examples)
    check_without_tools(tools, reasoning, write=write)
    if tools is not None and (tools.syntax or tools.grammar):
        check_forced_calls(tools, reasoning, num_examples=num_examples // 2)


def check_reading(
    tools: ToolParserSpec | None,
    reasoning: ReasoningParserSpec | None,
    *,
    write: WriteCalls | None = None,
    num_examples: int = 60,
) -> None:
    """Answers written in the dialect are read as what they say, however they are cut."""
    writers: list[tuple[CallSyntax | None, WriteCalls]] = []
    if write is not None:
        writers.append((None, write))
    elif tools is not None:
        writers += [(table, partial(write_calls, table)) for table in tools.syntax]
    for table, writer in writers:
        _check_calls(tools, reasoning, table, writer, num_examples)
    is_whole = tools is not None and tools.is_whole
    if reasoning is not None and reasoning.syntax is not None and not is_whole:
        _check_thinking(tools, reasoning, num_examples)


def _check_calls(
    tools: ToolParserSpec | None,
    reasoning: ReasoningParserSpec | None,
    table: CallSyntax | None,
    write: WriteCalls,
    num_examples: int,
) -> None:
    markers = [*call_markers(tools), *thinking_markers(reasoning)]
    is_exact = isinstance(table, JsonCalls | NamedCalls)
    is_bare = table is not None and not start_markers(table)

    @_many(num_examples)
    @given(
        calls=call_lists(markers, has_escapes=is_exact),
        content=st.just("") if is_bare else plain_texts(markers) | st.just(""),
        gap=st.sampled_from(["", "\n", " \n\n"]),
        places=st.lists(st.integers(0, 2000), max_size=12),
    )
    def check(calls: list[Call], content: str, gap: str, places: list[int]) -> None:
        head, prompt_end, _ = _thinking("", reasoning)
        text = head + content + gap + write(calls)
        answer = _read_all_ways(text, places, tools, reasoning, prompt_end)
        assert answer.content == content, text
        assert [call.name for call in answer.calls] == [call.name for call in calls], text
        assert all(call.is_complete for call in answer.calls), text
        for found, written in zip(answer.calls, calls, strict=True):
            assert json.loads(found.arguments) == written.arguments, text
            if is_exact:
                assert found.arguments == written.json, text

    check()


def _check_thinking(
    tools: ToolParserSpec | None, reasoning: ReasoningParserSpec, num_examples: int
) -> None:
    assert reasoning.syntax is not None
    markers = [*call_markers(tools), *thinking_markers(reasoning), *reasoning.syntax.ended_by]

    @_many(num_examples)
    @given(
        thought=plain_texts(markers),
        content=plain_texts(markers),
        is_open=st.booleans(),
        places=st.lists(st.integers(0, 200), max_size=8),
    )
    def check(thought: str, content: str, is_open: bool, places: list[int]) -> None:
        head, prompt_end, end = _thinking(thought, reasoning, is_open=is_open)
        text = f"{head}{end}\n\n{content}"
        answer = _read_all_ways(text, places, tools, reasoning, prompt_end)
        assert answer.reasoning == thought
        assert answer.content == content
        assert answer.calls == []
        broken = _read_all_ways(head, places, tools, reasoning, prompt_end)
        assert (broken.reasoning, broken.content) == (thought, ""), "it may break off within"

    check()


def _thinking(
    thought: str, reasoning: ReasoningParserSpec | None, *, is_open: bool = False
) -> tuple[str, str, str]:
    """A block of thinking: its beginning, the prompt's end before it, its end marker.

    With nothing to think the block is closed by the prompt.
    """
    syntax = reasoning.syntax if reasoning is not None else None
    if syntax is None:
        return "", "", ""
    if not thought:
        return "", f"{''.join(syntax.start[:1])}{syntax.end}", ""
    if not syntax.start:
        return thought, "", syntax.end
    if is_open:
        return thought, syntax.start[0], syntax.end
    return f"{syntax.start[0]}\n{thought}", "", syntax.end


def _read_all_ways(
    text: str,
    places: Sequence[int],
    tools: ToolParserSpec | None,
    reasoning: ReasoningParserSpec | None,
    prompt_end: str = "",
) -> Answer:
    """Read a text whole, in single characters, and cut at some places: it is all the same."""
    whole = read([text], tools, reasoning, prompt_end=prompt_end)
    for pieces in (list(text), cut(text, places)):
        other = read(pieces, tools, reasoning, prompt_end=prompt_end)
        assert other.parts == whole.parts, pieces
    return whole


def check_garbage(
    tools: ToolParserSpec | None, reasoning: ReasoningParserSpec | None, *, num_examples: int = 60
) -> None:
    """Whatever a model writes: nothing raises, cuts do not matter, text is not lost."""
    thinking = thinking_markers(reasoning)
    markers = [*call_markers(tools), *thinking]
    parts = st.sampled_from(
        [*markers, *markers, *(marker[:-1] for marker in markers), *NASTY, *_GARBAGE]
    )

    @_many(num_examples * 3)
    @given(
        text=st.lists(parts, max_size=14).map("".join),
        places=st.lists(st.integers(0, 200), max_size=8),
        is_open=st.booleans(),
    )
    def check(text: str, places: list[int], is_open: bool) -> None:
        prompt_end = thinking[0] if thinking and is_open else ""
        answer = _read_all_ways(text, places, tools, reasoning, prompt_end)
        kept = [part for kind, part in answer.parts if kind in {"Content", "Reasoning"}]
        if tools is not None and tools.make is not None:
            return  # what a parser made by hand keeps to itself is for its own tests
        if not answer.calls:
            assert _bare("".join(kept), thinking) in (
                _bare(text, thinking),
                _bare(_without_broken_marker(text, thinking), thinking),
            ), "all of it comes out but white space and the markers of thinking"
        else:
            assert _is_within(_bare("".join(kept), []), _bare(text, [])), "nothing is made up"

    check()


_GARBAGE = [
    " ", "\n", "so", "1", "-", "true", '{"name": "f"', '{"name": "f", "arguments": {"a": 1}}',
    '"arguments": {', '"parameters": ', "get_time", "f", "(x=1)", "```json\n", '[{"name": "find", ',
    "=", ";",
]  # fmt: skip


def check_without_tools(
    tools: ToolParserSpec | None,
    reasoning: ReasoningParserSpec | None,
    *,
    write: WriteCalls | None = None,
) -> None:
    """Without tools in the request nothing is read as a call."""
    if tools is None or tools.is_whole:
        return
    for table in tools.syntax:
        calls = [Call("f", {"text": "x"})]
        text = write_calls(table, calls) if write is None else write(calls)
        answer = read([text], tools, reasoning, callable_tools=())
        assert answer.calls == []
        assert "x" in answer.content + answer.reasoning


def check_forced_calls(
    tools: ToolParserSpec, reasoning: ReasoningParserSpec | None = None, *, num_examples: int = 30
) -> None:
    """Texts that the grammar of forced calls allows are read as whole calls."""
    for least, most in ((1, 1), (1, None), (2, 3)):
        node = build_call_grammar(tools, TOOLS, least=least, most=most)
        try:
            texts = texts_of(node)
        except NotSampled:
            return
        _check_forced(tools, reasoning, texts, (least, most), num_examples)


def _check_forced(
    tools: ToolParserSpec,
    reasoning: ReasoningParserSpec | None,
    texts: st.SearchStrategy[str],
    wanted: tuple[int, int | None],
    num_examples: int,
) -> None:
    _, prompt_end, _ = _thinking("", reasoning)
    least, most = wanted

    @_many(num_examples)
    @given(text=texts, places=st.lists(st.integers(0, 500), max_size=6))
    def check(text: str, places: list[int]) -> None:
        answer = _read_all_ways(text, places, tools, reasoning, prompt_end)
        assert len(answer.calls) >= least, text
        assert most is None or len(answer.calls) <= most, text
        assert answer.content == "", text
        for call in answer.calls:
            assert call.is_complete, text
            assert call.name in {tool.name for tool in TOOLS}, text
            _assert_fits(json.loads(call.arguments), text)

    check()


def _assert_fits(arguments: dict[str, Any], text: str) -> None:
    types = {"text": str, "count": int, "is_on": bool, "items": list, "more": dict}
    assert "text" in arguments, text
    for key, value in arguments.items():
        assert key not in types or isinstance(value, types[key]), text


# --- helpers ------------------------------------------------------------------------------------
def _many(num_examples: int) -> settings:
    slow = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    return settings(
        max_examples=num_examples, deadline=None, database=None, suppress_health_check=slow
    )


def _bare(text: str, markers: Sequence[str]) -> str:
    """A text without white space and markers, and without those that the pieces then make."""
    text = "".join(text.split())
    tight = sorted(("".join(marker.split()) for marker in markers), key=len, reverse=True)
    num_found = len(tight)
    while num_found:
        text, num_found = re.subn("|".join(map(re.escape, tight)), "", text)
    return text


def _without_broken_marker(text: str, markers: Sequence[str]) -> str:
    """A text without the marker that had only begun where it ends."""
    begun = [m[:length] for m in markers for length in range(len(m)) if text.endswith(m[:length])]
    return text.removesuffix(max(begun, key=len, default=""))


def _is_within(part: str, text: str) -> bool:
    """Whether the characters of `part` stand in `text`, in this order."""
    rest = iter(text)
    return all(char in rest for char in part)
