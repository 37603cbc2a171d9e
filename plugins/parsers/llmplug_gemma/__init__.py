"""Gemma 4 and FunctionGemma: calls with bare keys and strings between tokens of their own.

Earlier models have no way of their own to write calls.
"""

from __future__ import annotations

from llmplug import ReasoningParserSpec, ToolParserSpec, hookimpl
from llmplug.dialect import BraceCalls, ReasoningSyntax, in_template

# https://ai.google.dev/gemma/docs/core/prompt-formatting-gemma4
_GEMMA4 = BraceCalls(start="<|tool_call>call:", quote='<|"|>', end="<tool_call|>")
_THINKING = ReasoningSyntax(
    start=("<|channel>thought\n",), end="<channel|>", ended_by=("<|tool_call>",)
)
# https://ai.google.dev/gemma/docs/functiongemma/formatting-and-best-practices
_FUNCTION = BraceCalls(
    start="<start_function_call>call:", quote="<escape>", end="<end_function_call>"
)


@hookimpl
def llmplug_tool_parsers() -> list[ToolParserSpec]:
    """Offer the calls of `gemma4` and `functiongemma`."""
    return [
        ToolParserSpec(
            name="gemma4",
            detect=in_template("<|tool_call>call:", "<tool_call|>", score=0.9),
            syntax=(_GEMMA4,),
        ),
        ToolParserSpec(
            name="functiongemma",
            detect=in_template("<start_function_call>", "<escape>", score=0.9),
            syntax=(_FUNCTION,),
        ),
    ]


@hookimpl
def llmplug_reasoning_parsers() -> list[ReasoningParserSpec]:
    """Offer the thinking of `gemma4`."""
    return [
        ReasoningParserSpec(
            name="gemma4",
            detect=in_template("<|channel>", "<channel|>", score=0.9),
            syntax=_THINKING,
            thinking_on={"enable_thinking": True},
            thinking_off={"enable_thinking": False},
        )
    ]
