"""Step 3: calls in tags of its own, each between tokens; Step 3.5 writes as Qwen3-Coder does."""

from __future__ import annotations

from llmplug import ReasoningParserSpec, ToolParserSpec, hookimpl
from llmplug.dialect import ReasoningSyntax, TaggedCalls, in_template

_START = "<｜tool_calls_begin｜>"

# https://huggingface.co/stepfun-ai/step3, chat template
_CALLS = TaggedCalls(
    section=(_START, "<｜tool_calls_end｜>"),
    around=("<｜tool_call_begin｜>function<｜tool_sep｜>", "<｜tool_call_end｜>"),
    name=('<steptml:invoke name="', '">'),
    key=('<steptml:parameter name="', {'">': "schema"}),
    value=("", "</steptml:parameter>"),
    end="</steptml:invoke>",
)
_THINKING = ReasoningSyntax(start=("<think>",), end="</think>", ended_by=(_START,))


@hookimpl
def llmplug_tool_parsers() -> list[ToolParserSpec]:
    """Offer the calls of `step3`."""
    detect = in_template("<steptml:invoke", score=0.9)
    return [ToolParserSpec(name="step3", detect=detect, syntax=(_CALLS,))]


@hookimpl
def llmplug_reasoning_parsers() -> list[ReasoningParserSpec]:
    """Offer the thinking of `step3`, which knows no way to ask for none."""
    detect = in_template("</think>", "<steptml:invoke", score=0.9)
    return [ReasoningParserSpec(name="step3", detect=detect, syntax=_THINKING)]
