"""GLM 4.5 to 5, and who writes as they do (Ling 3, Laguna): keys and values in tags of their own.

Up to 4.6 each tag stands on a line of its own, from 4.7 on no line breaks stand between them.
"""

from __future__ import annotations

from llmplug import ReasoningParserSpec, ToolParserSpec, hookimpl
from llmplug.dialect import ReasoningSyntax, TaggedCalls, in_template

# https://huggingface.co/zai-org/GLM-4.5, https://huggingface.co/zai-org/GLM-4.7, chat templates
_CALLS = TaggedCalls(
    name=("<tool_call>", ""),
    key=("<arg_key>", {"</arg_key>": "schema"}),
    value=("<arg_value>", "</arg_value>"),
    end="</tool_call>",
)
_THINKING = ReasoningSyntax(start=("<think>",), end="</think>", ended_by=("<tool_call>",))

_OTHERS = ("<tool_calls>", "<tool_sep>")  # of a family that tags its keys so too


@hookimpl
def llmplug_tool_parsers() -> list[ToolParserSpec]:
    """Offer the calls of `glm`."""
    detect = in_template("<tool_call>", "<arg_key>", unless=_OTHERS, score=0.9)
    return [ToolParserSpec(name="glm", detect=detect, syntax=(_CALLS,))]


@hookimpl
def llmplug_reasoning_parsers() -> list[ReasoningParserSpec]:
    """Offer the thinking of `glm`."""
    return [
        ReasoningParserSpec(
            name="glm",
            detect=in_template("</think>", "<arg_key>", unless=_OTHERS, score=0.9),
            syntax=_THINKING,
            thinking_on={"enable_thinking": True},
            thinking_off={"enable_thinking": False},
        )
    ]
