"""Granite 3 and 4: a JSON list behind a token, or objects in tags; thinking in phrases or tags."""

from __future__ import annotations

from llmplug import ReasoningParserSpec, ToolParserSpec, hookimpl
from llmplug.dialect import JsonCalls, ReasoningSyntax, in_template

_ROLE = "<|start_of_role|>"

# https://huggingface.co/ibm-granite/granite-3.3-2b-instruct, chat template; 3.1 writes the tag
_CALLS_3 = JsonCalls(start=("<|tool_call|>", "<tool_call>"), holds="list")
# https://huggingface.co/ibm-granite/granite-4.0-h-small, chat template
_CALLS_4 = JsonCalls(start=("<tool_call>\n",), end="\n</tool_call>")

# https://huggingface.co/ibm-granite/granite-3.2-8b-instruct, chat template
_PHRASES = ReasoningSyntax(start=("Here is my thought process:",), end="Here is my response:")
# https://huggingface.co/ibm-granite/granite-3.3-8b-instruct, chat template
_TAGS = ReasoningSyntax(start=("<think>",), end="</think>", answer=("<response>", "</response>"))


@hookimpl
def llmplug_tool_parsers() -> list[ToolParserSpec]:
    """Offer the calls of `granite3` and `granite4`."""
    return [
        ToolParserSpec(
            name="granite3",
            detect=in_template(_ROLE, "<|tool_call|>", score=0.9),
            syntax=(_CALLS_3,),
        ),
        ToolParserSpec(
            name="granite4",
            detect=in_template(_ROLE, "</tool_call>", unless=("<function=",), score=0.9),
            syntax=(_CALLS_4,),
        ),
    ]


@hookimpl
def llmplug_reasoning_parsers() -> list[ReasoningParserSpec]:
    """Offer the thinking of `granite32` and `granite33`."""
    on, off = {"thinking": True}, {"thinking": False}
    return [
        ReasoningParserSpec(
            name="granite32",
            detect=in_template(_ROLE, _PHRASES.start[0], score=0.9),
            syntax=_PHRASES,
            thinking_on=on,
            thinking_off=off,
        ),
        ReasoningParserSpec(
            name="granite33",
            detect=in_template(_ROLE, "<think>", "<response>", score=0.9),
            syntax=_TAGS,
            thinking_on=on,
            thinking_off=off,
        ),
    ]
