"""MiniCPM 5: parameters in tags, and CDATA round a value that looks like a tag itself."""

from __future__ import annotations

from llmplug import ReasoningParserSpec, ToolParserSpec, hookimpl
from llmplug.dialect import ReasoningSyntax, TaggedCalls, in_template

_START = '<function name="'

# https://huggingface.co/openbmb/MiniCPM5-1B, chat template
_CALLS = TaggedCalls(
    name=(_START, '">'),
    key=('<param name="', {'">': "schema"}),
    value=("", "</param>"),
    quotes=("<![CDATA[", "]]>"),
    end="</function>",
)
_THINKING = ReasoningSyntax(start=("<think>",), end="</think>", ended_by=(_START,))


@hookimpl
def llmplug_tool_parsers() -> list[ToolParserSpec]:
    """Offer the calls of `minicpm5`."""
    detect = in_template(_START, '<param name="', score=0.9)
    return [ToolParserSpec(name="minicpm5", detect=detect, syntax=(_CALLS,))]


@hookimpl
def llmplug_reasoning_parsers() -> list[ReasoningParserSpec]:
    """Offer the thinking of `minicpm5`."""
    return [
        ReasoningParserSpec(
            name="minicpm5",
            detect=in_template("</think>", '<param name="', score=0.9),
            syntax=_THINKING,
            thinking_on={"enable_thinking": True},
            thinking_off={"enable_thinking": False},
        )
    ]
