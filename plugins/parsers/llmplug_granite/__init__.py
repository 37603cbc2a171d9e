"""Granite 3, 4 and 20B for calls: JSON behind a token or in tags; thinking in phrases or tags."""

from __future__ import annotations

from llmplug import ReasoningParserSpec, ToolParserSpec, hookimpl
from llmplug.dialect import JsonCalls, ReasoningSyntax, in_template

_ROLE = "<|start_of_role|>"

# https://huggingface.co/ibm-granite/granite-3.3-2b-instruct, chat template; 3.1 writes the tag
_CALLS_3 = JsonCalls(start=("<|tool_call|>", "<tool_call>"), holds="list")
# https://huggingface.co/ibm-granite/granite-4.0-h-small, chat template
_CALLS_4 = JsonCalls(start=("<tool_call>\n",), end="\n</tool_call>")
# https://huggingface.co/ibm-granite/granite-20b-functioncalling, as
# https://github.com/vllm-project/vllm/blob/main/examples/tool_chat_template_granite_20b_fc.jinja
# writes it; "no_function" is a function that the model calls where no other fits
_CALLS_20B = JsonCalls(start=("<function_call> ",))

# https://huggingface.co/ibm-granite/granite-3.2-8b-instruct, chat template
_PHRASES = ReasoningSyntax(start=("Here is my thought process:",), end="Here is my response:")
# https://huggingface.co/ibm-granite/granite-3.3-8b-instruct, chat template
_TAGS = ReasoningSyntax(start=("<think>",), end="</think>", answer=("<response>", "</response>"))


@hookimpl
def llmplug_tool_parsers() -> list[ToolParserSpec]:
    """Offer the calls of `granite3`, `granite4` and `granite_20b_fc`."""
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
        ToolParserSpec(
            name="granite_20b_fc",
            detect=in_template("<function_call> ", "<|function_call_library|>", score=0.9),
            syntax=(_CALLS_20B,),
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
