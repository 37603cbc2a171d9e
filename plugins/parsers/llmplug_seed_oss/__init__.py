"""Seed-OSS: calls in tags as Qwen3-Coder writes them, with markers of its own."""

from __future__ import annotations

from llmplug import ReasoningParserSpec, ToolParserSpec, hookimpl
from llmplug.dialect import ReasoningSyntax, TaggedCalls, in_template

_START = "<seed:tool_call>"

# https://huggingface.co/ByteDance-Seed/Seed-OSS-36B-Instruct, chat template
_CALLS = TaggedCalls(
    section=(_START, "</seed:tool_call>"),
    is_single=True,
    name=("<function=", ">"),
    key=("<parameter=", {">": "schema"}),
    value=("", "</parameter>"),
    end="</function>",
)
_THINKING = ReasoningSyntax(start=("<seed:think>",), end="</seed:think>", ended_by=(_START,))


@hookimpl
def llmplug_tool_parsers() -> list[ToolParserSpec]:
    """Offer the calls of `seed_oss`."""
    detect = in_template(_START, "<function=", score=0.9)
    return [ToolParserSpec(name="seed_oss", detect=detect, syntax=(_CALLS,))]


@hookimpl
def llmplug_reasoning_parsers() -> list[ReasoningParserSpec]:
    """Offer the thinking of `seed_oss`; its budget is told the model in tokens, -1 for any."""
    return [
        ReasoningParserSpec(
            name="seed_oss",
            detect=in_template("<seed:think>", score=0.9),
            syntax=_THINKING,
            thinking_on={"thinking_budget": -1},
            thinking_off={"thinking_budget": 0},
        )
    ]
