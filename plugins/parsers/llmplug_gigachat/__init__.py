"""GigaChat 3.5: parameters in tags, which say of each whether it is a string."""

from __future__ import annotations

from llmplug import ReasoningParserSpec, ToolParserSpec, hookimpl
from llmplug.dialect import ReasoningSyntax, TaggedCalls, in_template

_START = "<｜GCML｜tool_calls>"

# https://github.com/ggml-org/llama.cpp/blob/master/models/templates/GigaChat3.5.jinja
_CALLS = TaggedCalls(
    section=(_START, "</｜GCML｜tool_calls>"),
    name=('<｜GCML｜invoke name="', '">'),
    key=('<｜GCML｜parameter name="', {'" string="true">': "text", '" string="false">': "json"}),
    value=("", "</｜GCML｜parameter>"),
    end="</｜GCML｜invoke>",
)
_THINKING = ReasoningSyntax(start=("<think>",), end="</think>", ended_by=(_START,))


@hookimpl
def llmplug_tool_parsers() -> list[ToolParserSpec]:
    """Offer the calls of `gigachat35`."""
    detect = in_template(_START, score=0.9)
    return [ToolParserSpec(name="gigachat35", detect=detect, syntax=(_CALLS,))]


@hookimpl
def llmplug_reasoning_parsers() -> list[ReasoningParserSpec]:
    """Offer the thinking of `gigachat35`."""
    return [
        ReasoningParserSpec(
            name="gigachat35",
            detect=in_template("</think>", _START, score=0.9),
            syntax=_THINKING,
            thinking_on={"reasoning": True},
            thinking_off={"reasoning": False},
        )
    ]
