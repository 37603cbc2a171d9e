"""Qwen3-Coder and Qwen3.5: parameters in tags; MiMo, Step 3.5 and Nemotron 3 write so too."""

from __future__ import annotations

from dataclasses import replace

from llmplug import ReasoningParserSpec, ToolParserSpec, hookimpl
from llmplug.dialect import ReasoningSyntax, TaggedCalls, in_template

# https://huggingface.co/Qwen/Qwen3-Coder-30B-A3B-Instruct, chat template
_CALLS = TaggedCalls(
    section=("<tool_call>", "</tool_call>"),
    is_single=True,
    name=("<function=", ">"),
    key=("<parameter=", {">": "schema"}),
    value=("", "</parameter>"),
    end="</function>",
    pad="\n",
)
# The models of 2025 now and then leave the first tag out.
_UNOPENED = replace(_CALLS, section=None, is_single=False)
_THINKING = ReasoningSyntax(start=("<think>",), end="</think>", ended_by=("<tool_call>",))


@hookimpl
def llmplug_tool_parsers() -> list[ToolParserSpec]:
    """Offer the calls of `qwen3_coder`."""
    detect = in_template("<tool_call>", "<function=", "<parameter=", score=0.9)
    return [ToolParserSpec(name="qwen3_coder", detect=detect, syntax=(_CALLS, _UNOPENED))]


@hookimpl
def llmplug_reasoning_parsers() -> list[ReasoningParserSpec]:
    """Offer the thinking of `qwen3_coder`."""
    return [
        ReasoningParserSpec(
            name="qwen3_coder",
            detect=in_template("<think>", "</think>", "<function=", score=0.9),
            syntax=_THINKING,
            thinking_on={"enable_thinking": True},
            thinking_off={"enable_thinking": False},
            effort_variable="reasoning_effort",
        )
    ]
