"""Apertus: a JSON list of `{name: arguments}` between tokens, thinking between others."""

from __future__ import annotations

from llmplug import ReasoningParserSpec, ToolParserSpec, hookimpl
from llmplug.dialect import JsonCalls, ReasoningSyntax, in_template

_START, _THINK = "<|tools_prefix|>", "<|inner_prefix|>"

# https://huggingface.co/swiss-ai/Apertus-8B-Instruct-2509, chat template
_CALLS = JsonCalls(start=(_START,), end="<|tools_suffix|>", holds="list", name_key="")
_THINKING = ReasoningSyntax(start=(_THINK,), end="<|inner_suffix|>", ended_by=(_START,))


@hookimpl
def llmplug_tool_parsers() -> list[ToolParserSpec]:
    """Offer the calls of `apertus`."""
    detect = in_template(_START, _CALLS.end, score=0.9)
    return [ToolParserSpec(name="apertus", detect=detect, syntax=(_CALLS,))]


@hookimpl
def llmplug_reasoning_parsers() -> list[ReasoningParserSpec]:
    """Offer the thinking of `apertus`."""
    return [
        ReasoningParserSpec(
            name="apertus",
            detect=in_template(_THINK, _THINKING.end, score=0.9),
            syntax=_THINKING,
            thinking_on={"enable_thinking": True},
            thinking_off={"enable_thinking": False},
        )
    ]
