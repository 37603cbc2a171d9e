"""What an answer must look like where it is not free: forced calls, strict tools, a format."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from llmplug.chat.calls import start_markers, write_grammar
from llmplug.chat.channels import begins_in_reasoning
from llmplug.dialect import JsonCalls, PythonCalls
from llmplug.errors import UnsupportedParameter
from llmplug.grammar import Anything, Node, OneOf, Regex, Repeat, Seq, Text, Until

if TYPE_CHECKING:
    from llmplug.chat.channels import Dialect
    from llmplug.dialect import CallSyntax, ReasoningSyntax, Tool
    from llmplug.specs import ToolParserSpec

# White space that models put between thinking and answer.
_GAP = Repeat(Regex(r"[ \n]"), 0, 4)


def build_call_grammar(
    spec: ToolParserSpec, tools: Sequence[Tool], *, least: int, most: int | None
) -> Node:
    """What calls look like in a dialect, from the first marker to the last.

    Args:
        tools: that may be called, one at least.
        least: calls there must be.
        most: calls there may be; None: any number.
    Raises:
        UnsupportedParameter: the dialect has a parser made by hand and no grammar.
        GrammarError: a tool's schema cannot be followed in this syntax.
    """
    if spec.grammar is not None:
        return spec.grammar(tools, least, most)
    if not spec.syntax:
        raise UnsupportedParameter(
            f"calls cannot be forced: the dialect {spec.name!r} says only how to read them",
            param="tool_choice",
        )
    return write_grammar(spec.syntax[0], tools, least, most)


def build_answer_grammar(
    dialect: Dialect,
    tools: Sequence[Tool],
    *,
    choice: Literal["none", "auto", "required"],
    most: int | None = None,
    text: Node | None = None,
    prompt_end: str = "",
) -> Node:
    """What a whole answer looks like: thinking, if the dialect has it, then calls or text.

    Args:
        tools: that may be called.
        choice: `none`: no calls; `required`: calls alone; `auto`: text, then perhaps calls, or
            where the text has a form of its own, text or calls.
        most: calls there may be; None: any number.
        text: form of the content; None: any text.
        prompt_end: as in `AnswerContext`.
    Raises:
        UnsupportedParameter: as in `build_call_grammar`, or text and calls cannot be told apart.
        GrammarError: as there.
    """
    spec = dialect.tools
    if spec is not None and spec.answer_grammar is not None:
        has_calls, has_text = choice != "none" and bool(tools), choice != "required" or not tools
        calls = build_call_grammar(spec, tools, least=1, most=most) if has_calls else None
        content = (Anything() if text is None else text) if has_text else None
        return spec.answer_grammar(content, calls, prompt_end)
    body = _body_grammar(spec, tools, choice, most, text)
    syntax = dialect.reasoning.syntax if dialect.reasoning is not None else None
    if syntax is None:
        return body
    return Seq([_thinking_grammar(syntax, prompt_end), body])


def _thinking_grammar(syntax: ReasoningSyntax, prompt_end: str) -> Node:
    """The rest of a block that the prompt opened, or a block if the model opens one."""
    if begins_in_reasoning(syntax, prompt_end):
        return Seq([Until(syntax.end), _GAP])
    if syntax.end.strip() in prompt_end or not syntax.start:
        return Text("")  # the template has closed it already, or nothing opens one
    block = Seq([Text(syntax.start[0]), Until(syntax.end), _GAP])
    return Repeat(block, 0, 1)


def _body_grammar(
    spec: ToolParserSpec | None,
    tools: Sequence[Tool],
    choice: Literal["none", "auto", "required"],
    most: int | None,
    text: Node | None,
) -> Node:
    if choice == "none" or spec is None or not tools:
        return Anything() if text is None else text
    calls = build_call_grammar(spec, tools, least=1, most=most)
    if choice == "required":
        return calls
    if text is not None:
        return OneOf([text, calls])
    if not spec.syntax:
        raise UnsupportedParameter(
            f"strict tools need a tool_choice: the dialect {spec.name!r} does not say how calls "
            "stand among text",
            param="tools",
        )
    return _text_or_calls(spec, calls)


def _text_or_calls(spec: ToolParserSpec, calls: Node) -> Node:
    """Text in which no call begins, and perhaps calls behind it."""
    markers = [marker for syntax in spec.syntax for marker in start_markers(syntax)]
    free = Anything(without=markers)
    first = next(iter(start_markers(spec.syntax[0])), "")
    # Text and marker must be one item: a backend that has begun text would read the marker as text.
    begun = Seq([Until(first), cut_marker(calls, first)]) if first else None
    if not any(_is_bare(syntax) for syntax in spec.syntax):
        return OneOf([free, begun]) if begun is not None else OneOf([free, calls])
    # A bare call begins where an answer does: text there begins with something else.
    firsts = "".join(re.escape(char) for char in sorted({marker[0] for marker in markers}))
    head = Regex(rf"[^\s{{\[{firsts}]")
    choices: list[Node] = [Text(""), Seq([head, free]), calls]
    return OneOf(choices if begun is None else [*choices, Seq([head, begun])])


def _is_bare(syntax: CallSyntax) -> bool:
    return isinstance(syntax, JsonCalls | PythonCalls) and syntax.is_bare


def cut_marker(node: Node, marker: str) -> Node:
    """Return what stands behind the marker that a tree begins with.

    Raises:
        UnsupportedParameter: not every text of the tree begins with it.
    """
    match node:
        case Text(text) if text.lstrip().startswith(marker):
            return Text(text.lstrip().removeprefix(marker))
        case Seq([first, *rest]):
            return Seq([cut_marker(first, marker), *rest])
        case OneOf(items) if items:
            return OneOf([cut_marker(item, marker) for item in items])
        case Repeat(item, 0 | 1, 1):
            return cut_marker(item, marker)
    raise UnsupportedParameter(
        f"calls of this dialect do not begin with {marker!r}: strict tools need tool_choice",
        param="tools",
    )
