"""Hunyuan: A13B and its dense kin write a JSON list of calls, 3 and 4 put parameters in tags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmplug import ReasoningParserSpec, ToolParserSpec, hookimpl
from llmplug.dialect import NO_MATCH, JsonCalls, Match, ReasoningSyntax, TaggedCalls, in_template

_LIST = ("<tool_calls>", "</tool_calls>")

# https://huggingface.co/tencent/Hunyuan-A13B-Instruct, chat template
_JSON = JsonCalls(start=_LIST[:1], end=_LIST[1], holds="list")
_THINKING = ReasoningSyntax(
    start=("<think>",), end="</think>", ended_by=_LIST[:1], answer=("<answer>", "</answer>")
)


def _tags(suffix: str, separator: str) -> TaggedCalls:
    """Parameters in tags; the tags of a checkpoint may all end in a word of its own."""
    return TaggedCalls(
        section=(f"<tool_calls{suffix}>", f"</tool_calls{suffix}>"),
        name=(f"<tool_call{suffix}>", separator),
        key=(f"<arg_key{suffix}>", {f"</arg_key{suffix}>": "schema"}),
        value=(f"<arg_value{suffix}>", f"</arg_value{suffix}>"),
        end=f"</tool_call{suffix}>",
    )


# https://huggingface.co/tencent/Hy3-preview and https://huggingface.co/tencent/Hy3, chat templates;
# https://huggingface.co/tencent/Hy4-preview leaves the separator out.
_OPEN = ":opensource"
_TAGS_3 = _tags("", "<tool_sep>")
_TAGS_4 = _tags("", "")
_OPEN_TAGS_3 = _tags(_OPEN, f"<tool_sep{_OPEN}>")
_OPEN_TAGS_4 = _tags(_OPEN, "")
_THINKING_3 = ReasoningSyntax(start=("<think>",), end="</think>", ended_by=_LIST[:1])
_OPEN_THINKING = ReasoningSyntax(
    start=(f"<think{_OPEN}>",), end=f"</think{_OPEN}>", ended_by=(f"<tool_calls{_OPEN}>",)
)

_TURNS = ("<|extra_0|>", "<｜hy_Assistant｜>")  # of A13B, of the dense models


def _detect_thinking(template: str, config: Mapping[str, Any], vocab: frozenset[str]) -> Match:
    del config, vocab
    turn = next((text for text in _TURNS if text in template), None)
    if turn is None or "</think>" not in template or "<arg_key>" in template:
        return NO_MATCH
    return Match(0.9, f"its template writes </think> and {turn}")


@hookimpl
def llmplug_tool_parsers() -> list[ToolParserSpec]:
    """Offer the calls of `hunyuan`, `hunyuan3` and `hunyuan4`, and of their open checkpoints."""
    return [
        ToolParserSpec(
            name="hunyuan",
            detect=in_template("<tool_calls>[", "</think>", unless=("<tool_sep>",), score=0.9),
            syntax=(_JSON,),
        ),
        ToolParserSpec(
            name="hunyuan3",
            detect=in_template("<tool_calls>", "<tool_sep>", "<arg_key>", score=0.9),
            syntax=(_TAGS_3,),
        ),
        ToolParserSpec(
            name="hunyuan3_open",
            detect=in_template(_OPEN, "tool_sep", "arg_key", score=0.9),
            syntax=(_OPEN_TAGS_3,),
        ),
        ToolParserSpec(
            name="hunyuan4",
            detect=in_template("<tool_calls>", "<arg_key>", unless=("tool_sep",), score=0.9),
            syntax=(_TAGS_4,),
        ),
        ToolParserSpec(
            name="hunyuan4_open",
            detect=in_template(_OPEN, "arg_key", unless=("tool_sep",), score=0.9),
            syntax=(_OPEN_TAGS_4,),
        ),
    ]


@hookimpl
def llmplug_reasoning_parsers() -> list[ReasoningParserSpec]:
    """Offer the thinking of `hunyuan`, and from 3 on that of `hunyuan3` and `hunyuan3_open`."""
    return [
        ReasoningParserSpec(
            name="hunyuan",
            detect=_detect_thinking,
            syntax=_THINKING,
            thinking_on={"enable_thinking": True},
            thinking_off={"enable_thinking": False},
        ),
        ReasoningParserSpec(
            name="hunyuan3",
            detect=in_template("</think>", "<tool_calls>", "<arg_key>", score=0.9),
            syntax=_THINKING_3,
            thinking_on={"reasoning_effort": "high"},
            thinking_off={"reasoning_effort": "no_think"},
        ),
        ReasoningParserSpec(
            name="hunyuan3_open",
            detect=in_template(_OPEN, "think", "arg_key", score=0.9),
            syntax=_OPEN_THINKING,
            thinking_on={"reasoning_effort": "high"},
            thinking_off={"reasoning_effort": "no_think"},
        ),
    ]
