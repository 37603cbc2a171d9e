"""Command R and Command A: JSON lists of actions, in a code block or between tokens."""

from __future__ import annotations

from llmplug import ReasoningParserSpec, ToolParserSpec, hookimpl
from llmplug.dialect import JsonCalls, ReasoningSyntax, in_template

_ACTION, _THINK = "<|START_ACTION|>", "<|START_THINKING|>"

# https://huggingface.co/CohereLabs/c4ai-command-r-plus, chat template `tool_use`
_CALLS_R = JsonCalls(
    start=("Action: ```json\n", "Action:\n```json\n", "Action:```json"),
    end="\n```",
    holds="list",
    name_key="tool_name",
    arguments_key=("parameters",),
)
# https://huggingface.co/CohereLabs/c4ai-command-a-03-2025, chat template `tool_use`. The tokens
# round its responses are read by nobody, and dropped as all such tokens.
_CALLS_A = JsonCalls(
    start=(_ACTION,),
    end="<|END_ACTION|>",
    holds="list",
    name_key="tool_name",
    arguments_key=("parameters",),
)
_THINKING = ReasoningSyntax(start=(_THINK,), end="<|END_THINKING|>", ended_by=(_ACTION,))


@hookimpl
def llmplug_tool_parsers() -> list[ToolParserSpec]:
    """Offer the calls of `command_r` and `command_a`."""
    return [
        ToolParserSpec(
            name="command_r",
            detect=in_template("Action:", "```json", "tool_name", unless=(_ACTION,), score=0.9),
            syntax=(_CALLS_R,),
        ),
        ToolParserSpec(
            name="command_a",
            detect=in_template(_ACTION, "tool_name", score=0.9),
            syntax=(_CALLS_A,),
        ),
    ]


@hookimpl
def llmplug_reasoning_parsers() -> list[ReasoningParserSpec]:
    """Offer the thinking of `command_a`."""
    return [
        ReasoningParserSpec(
            name="command_a",
            detect=in_template(_THINK, score=0.9),
            syntax=_THINKING,
            thinking_on={"reasoning": True, "enable_thinking": True},
            thinking_off={"reasoning": False, "enable_thinking": False},
        )
    ]
