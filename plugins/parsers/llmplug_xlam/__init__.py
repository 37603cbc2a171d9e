"""xLAM: a JSON list of calls, mostly without any marker."""

from __future__ import annotations

from llmplug import ToolParserSpec, hookimpl
from llmplug.dialect import JsonCalls, in_template

# https://huggingface.co/Salesforce/Llama-xLAM-2-8b-fc-r, chat template. Its makers' parsers also
# look into any block of JSON in an answer; ours does not: it may be data that a user asked for.
_BARE = JsonCalls(start=(), holds="list", is_bare=True)
_TAGGED = JsonCalls(start=("<tool_call>",), end="</tool_call>", holds="list")
_MARKED = JsonCalls(start=("[TOOL_CALLS]",), holds="list")


@hookimpl
def llmplug_tool_parsers() -> list[ToolParserSpec]:
    """Offer the calls of `xlam`."""
    detect = in_template("calls in a single JSON array", "tool_call_name", score=0.9)
    return [ToolParserSpec(name="xlam", detect=detect, syntax=(_BARE, _TAGGED, _MARKED))]
