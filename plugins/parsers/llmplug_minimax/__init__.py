"""MiniMax M2: calls and their parameters in tags, thinking that every answer begins with."""

from __future__ import annotations

from llmplug import ReasoningParserSpec, ToolParserSpec, hookimpl
from llmplug.dialect import ReasoningSyntax, TaggedCalls, in_template

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


@hookimpl
def llmplug_tool_parsers() -> list[ToolParserSpec]:
    """Offer the calls of `minimax_m2`."""
    detect = in_template(_START, "<invoke name=", score=0.9)
    return [ToolParserSpec(name="minimax_m2", detect=detect, syntax=(_CALLS,))]


@hookimpl
def llmplug_reasoning_parsers() -> list[ReasoningParserSpec]:
    """Offer the thinking of `minimax_m2`."""
    detect = in_template("</think>", _START, score=0.9)
    return [ReasoningParserSpec(name="minimax_m2", detect=detect, syntax=_THINKING)]
