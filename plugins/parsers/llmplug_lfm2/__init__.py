"""LFM2 and LFM2.5: a Python list of calls between tokens."""

from __future__ import annotations

from llmplug import ReasoningParserSpec, ToolParserSpec, hookimpl
from llmplug.dialect import PythonCalls, ReasoningSyntax, in_template

_START = "<|tool_call_start|>"

# https://huggingface.co/LiquidAI/LFM2.5-1.2B-Instruct, chat template
_CALLS = PythonCalls(start=(_START,), end="<|tool_call_end|>")
_THINKING = ReasoningSyntax(start=("<think>",), end="</think>", ended_by=(_START,))


@hookimpl
def llmplug_tool_parsers() -> list[ToolParserSpec]:
    """Offer the calls of `lfm2`."""
    detect = in_template("<|im_start|>", "List of tools: ", score=0.9)
    return [ToolParserSpec(name="lfm2", detect=detect, syntax=(_CALLS,))]


@hookimpl
def llmplug_reasoning_parsers() -> list[ReasoningParserSpec]:
    """Offer the thinking of `lfm2`."""
    detect = in_template("</think>", "List of tools: ", score=0.9)
    return [ReasoningParserSpec(name="lfm2", detect=detect, syntax=_THINKING)]
