"""Kimi K2: calls in a section of their own, each known by `functions.{name}:{index}`.

The name stands within the call's id alone, so calls that come back in a conversation must keep it.
"""

from __future__ import annotations

from llmplug import ReasoningParserSpec, ToolParserSpec, hookimpl
from llmplug.dialect import NamedCalls, ReasoningSyntax, in_template

_START = "<|tool_calls_section_begin|>"

# https://huggingface.co/moonshotai/Kimi-K2-Instruct, docs/tool_call_guidance.md
_CALLS = NamedCalls(
    section=(_START, "<|tool_calls_section_end|>"),
    start="<|tool_call_begin|>",
    after_name="<|tool_call_argument_begin|>",
    end="<|tool_call_end|>",
    name_pattern=r"(?P<id>(?:functions\.)?(?P<name>.+):\d+)",
    name_format="functions.{name}:{index}",
)
# https://huggingface.co/moonshotai/Kimi-K2-Thinking, chat template
_THINKING = ReasoningSyntax(start=("<think>",), end="</think>", ended_by=(_START,))


@hookimpl
def llmplug_tool_parsers() -> list[ToolParserSpec]:
    """Offer the calls of `kimi_k2`."""
    return [
        ToolParserSpec(
            name="kimi_k2",
            detect=in_template(_START, score=0.9),
            syntax=(_CALLS,),
            make_id=lambda name, index: f"functions.{name}:{index}",
        )
    ]


@hookimpl
def llmplug_reasoning_parsers() -> list[ReasoningParserSpec]:
    """Offer the thinking of `kimi_k2`."""
    return [
        ReasoningParserSpec(
            name="kimi_k2",
            detect=in_template("</think>", _START, score=0.9),
            syntax=_THINKING,
            thinking_on={"thinking": True},
            thinking_off={"thinking": False},
        )
    ]
