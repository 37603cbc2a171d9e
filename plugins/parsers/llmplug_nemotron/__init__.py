"""Nemotron before 3 (Llama Nemotron, Nemotron Nano v2): a JSON list between `<TOOLCALL>` tags."""

from __future__ import annotations

from llmplug import ReasoningParserSpec, ToolParserSpec, hookimpl
from llmplug.dialect import JsonCalls, ReasoningSyntax, in_template

_START = "<TOOLCALL>"

# https://huggingface.co/nvidia/NVIDIA-Nemotron-Nano-9B-v2, chat template
_CALLS = JsonCalls(start=(_START,), end="</TOOLCALL>", holds="list")
_THINKING = ReasoningSyntax(start=("<think>",), end="</think>", ended_by=(_START,))


@hookimpl
def llmplug_tool_parsers() -> list[ToolParserSpec]:
    """Offer the calls of `nemotron`."""
    detect = in_template(_START, score=0.9)
    return [ToolParserSpec(name="nemotron", detect=detect, syntax=(_CALLS,))]


@hookimpl
def llmplug_reasoning_parsers() -> list[ReasoningParserSpec]:
    """Offer the thinking of `nemotron`, which `/think` and `/no_think` in a message control."""
    detect = in_template("</think>", _START, score=0.9)
    return [ReasoningParserSpec(name="nemotron", detect=detect, syntax=_THINKING)]
