"""MiniMax M2 and M3: calls in tags, parameters in tags too or as elements that bear their names.

Answers of M2 begin with thinking. M3 puts a token before every tag of a call, and nests elements
for objects and lists: `element_reader.py` reads them, `element_grammar.py` writes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmplug import ReasoningParserSpec, ToolParserSpec, hookimpl
from llmplug.dialect import CustomCalls, Opening, ReasoningSyntax, TaggedCalls, Tool, in_template

if TYPE_CHECKING:
    from llmplug.dialect import CallReader
    from llmplug.grammar import Node

_START = "<minimax:tool_call>"

# https://huggingface.co/MiniMaxAI/MiniMax-M2, docs/tool_calling_guide.md
_CALLS = TaggedCalls(
    section=(_START, "</minimax:tool_call>"),
    name=('<invoke name="', '">'),
    key=('<parameter name="', {'">': "schema"}),
    value=("", "</parameter>"),
    end="</invoke>",
)
_THINKING = ReasoningSyntax(start=("<think>",), end="</think>", ended_by=(_START,))


def _open_elements(opening: Opening) -> CallReader:
    from llmplug_minimax.element_reader import ElementReader

    return ElementReader(opening)


def _write_elements(tools: Sequence[Tool], least: int, most: int | None) -> Node:
    from llmplug_minimax.element_grammar import write_calls

    return write_calls(tools, least, most)


# https://huggingface.co/MiniMaxAI/MiniMax-M3, chat template
_MARK = "]<]minimax[>["
_ELEMENTS = CustomCalls(
    start=(f"{_MARK}<tool_call>",), markers=(_MARK,), open=_open_elements, write=_write_elements
)
_MARKED_THINKING = ReasoningSyntax(
    start=("<mm:think>",), end="</mm:think>", ended_by=_ELEMENTS.start
)


@hookimpl
def llmplug_tool_parsers() -> list[ToolParserSpec]:
    """Offer the calls of `minimax_m2` and `minimax_m3`."""
    return [
        ToolParserSpec(
            name="minimax_m2",
            detect=in_template(_START, "<invoke name=", score=0.9),
            syntax=(_CALLS,),
        ),
        ToolParserSpec(
            name="minimax_m3",
            detect=in_template(_MARK, "<invoke name=", score=0.9),
            syntax=(_ELEMENTS,),
        ),
    ]


@hookimpl
def llmplug_reasoning_parsers() -> list[ReasoningParserSpec]:
    """Offer the thinking of `minimax_m2` and `minimax_m3`."""
    return [
        ReasoningParserSpec(
            name="minimax_m2",
            detect=in_template("</think>", _START, score=0.9),
            syntax=_THINKING,
        ),
        ReasoningParserSpec(
            name="minimax_m3",
            detect=in_template("</mm:think>", score=0.95),
            syntax=_MARKED_THINKING,
            thinking_on={"thinking_mode": "enabled"},
            thinking_off={"thinking_mode": "disabled"},
        ),
    ]
