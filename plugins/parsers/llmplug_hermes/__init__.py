"""Hermes: JSON between `<tool_call>` tags, thinking between `<think>` tags; Qwen 2.5 and 3 too."""

from __future__ import annotations

from llmplug import ReasoningParserSpec, ToolParserSpec, hookimpl
from llmplug.dialect import JsonCalls, ReasoningSyntax, in_template

# https://huggingface.co/NousResearch/Hermes-2-Pro-Llama-3-8B, chat template `tool_use`
_CALLS = JsonCalls(start=("<tool_call>",), end="</tool_call>")
_THINKING = ReasoningSyntax(start=("<think>",), end="</think>", ended_by=("<tool_call>",))


@hookimpl
def llmplug_tool_parsers() -> list[ToolParserSpec]:
    """Offer the calls of `hermes`."""
    detect = in_template("<tool_call>", "arguments", unless=("<function=", "<arg_key>"))
    return [ToolParserSpec(name="hermes", detect=detect, syntax=(_CALLS,))]


@hookimpl
def llmplug_reasoning_parsers() -> list[ReasoningParserSpec]:
    """Offer the thinking of `hermes`."""
    return [
        ReasoningParserSpec(
            name="hermes",
            detect=in_template("<think>", "</think>"),
            syntax=_THINKING,
            thinking_on={"enable_thinking": True},
            thinking_off={"enable_thinking": False},
        )
    ]
