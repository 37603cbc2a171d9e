"""SmolLM3: JSON between `<tool_call>` tags, thinking between `<think>` tags."""

from __future__ import annotations

from llmplug import ReasoningParserSpec, ToolParserSpec, hookimpl
from llmplug.dialect import JsonCalls, ReasoningSyntax, in_template

# https://huggingface.co/HuggingFaceTB/SmolLM3-3B, chat template
_CALLS = JsonCalls(start=("<tool_call>\n",), end="\n</tool_call>")
_THINKING = ReasoningSyntax(start=("<think>",), end="</think>", ended_by=("<tool_call>",))

_MODE = "Reasoning Mode: "


@hookimpl
def llmplug_tool_parsers() -> list[ToolParserSpec]:
    """Offer the calls of `smollm3`."""
    return [
        ToolParserSpec(
            name="smollm3", detect=in_template(_MODE, "/no_think", score=0.9), syntax=(_CALLS,)
        )
    ]


@hookimpl
def llmplug_reasoning_parsers() -> list[ReasoningParserSpec]:
    """Offer the thinking of `smollm3`."""
    return [
        ReasoningParserSpec(
            name="smollm3",
            detect=in_template(_MODE, "/no_think", "</think>", score=0.9),
            syntax=_THINKING,
            thinking_on={"enable_thinking": True},
            thinking_off={"enable_thinking": False},
        )
    ]
