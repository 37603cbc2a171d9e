"""LongCat-Flash: JSON between `<longcat_tool_call>` tags, or keys and values in tags of their own.

The first models (Chat, Thinking) write JSON, those since Flash-Lite tags.
"""

from __future__ import annotations

from llmplug import ReasoningParserSpec, ToolParserSpec, hookimpl
from llmplug.dialect import JsonCalls, ReasoningSyntax, TaggedCalls, in_template

_START, _END = "<longcat_tool_call>", "</longcat_tool_call>"
_KEY = "<longcat_arg_key>"

# https://huggingface.co/meituan-longcat/LongCat-Flash-Chat, README
_JSON = JsonCalls(start=(f"{_START}\n",), end=f"\n{_END}")
# https://huggingface.co/meituan-longcat/LongCat-Flash-Lite, chat template
_TAGS = TaggedCalls(
    name=(_START, ""),
    key=(_KEY, {"</longcat_arg_key>": "schema"}),
    value=("<longcat_arg_value>", "</longcat_arg_value>"),
    end=_END,
)
_THINKING = ReasoningSyntax(start=("<longcat_think>",), end="</longcat_think>", ended_by=(_START,))


@hookimpl
def llmplug_tool_parsers() -> list[ToolParserSpec]:
    """Offer the calls of `longcat` and `longcat_lite`."""
    in_json = in_template(_START, unless=(_KEY,), score=0.9)
    in_tags = in_template(_START, _KEY, score=0.9)
    return [
        ToolParserSpec(name="longcat", detect=in_json, syntax=(_JSON,)),
        ToolParserSpec(name="longcat_lite", detect=in_tags, syntax=(_TAGS,)),
    ]


@hookimpl
def llmplug_reasoning_parsers() -> list[ReasoningParserSpec]:
    """Offer the thinking of `longcat`."""
    return [
        ReasoningParserSpec(
            name="longcat",
            detect=in_template("<longcat_think>", score=0.9),
            syntax=_THINKING,
            thinking_on={"enable_thinking": True},
            thinking_off={"enable_thinking": False},
        )
    ]
