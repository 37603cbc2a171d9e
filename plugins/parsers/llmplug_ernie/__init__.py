"""ERNIE 4.5 Thinking: JSON between `<tool_call>` tags, and tags round the answer too."""

from __future__ import annotations

from llmplug import ReasoningParserSpec, ToolParserSpec, hookimpl
from llmplug.dialect import JsonCalls, ReasoningSyntax, in_template

# https://huggingface.co/baidu/ERNIE-4.5-21B-A3B-Thinking, chat template
_CALLS = JsonCalls(start=("<tool_call>\n",), end="\n</tool_call>")
_THINKING = ReasoningSyntax(
    start=("<think>",),
    end="</think>",
    ended_by=("<tool_call>",),
    answer=("<response>", "</response>"),
)
_detect = in_template("<response>", "</think>", "<tool_call>", score=0.9)


@hookimpl
def llmplug_tool_parsers() -> list[ToolParserSpec]:
    """Offer the calls of `ernie45`."""
    return [ToolParserSpec(name="ernie45", detect=_detect, syntax=(_CALLS,))]


@hookimpl
def llmplug_reasoning_parsers() -> list[ReasoningParserSpec]:
    """Offer the thinking of `ernie45`."""
    return [ReasoningParserSpec(name="ernie45", detect=_detect, syntax=_THINKING)]
