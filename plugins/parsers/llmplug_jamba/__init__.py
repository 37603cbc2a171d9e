"""Jamba 1.5 and 1.6, Apriel: a JSON list between tags."""

from __future__ import annotations

from llmplug import ToolParserSpec, hookimpl
from llmplug.dialect import JsonCalls, in_template

# https://huggingface.co/ai21labs/AI21-Jamba-Mini-1.5, chat template;
# https://huggingface.co/ServiceNow-AI/Apriel-1.5-15b-Thinker, chat template
_CALLS = JsonCalls(start=("<tool_calls>",), end="</tool_calls>", holds="list")


@hookimpl
def llmplug_tool_parsers() -> list[ToolParserSpec]:
    """Offer the calls of `jamba` and, in the same way, of `apriel`."""
    return [
        ToolParserSpec(
            name="jamba", detect=in_template("<|bom|>", "<tool_calls>", score=0.9), syntax=(_CALLS,)
        ),
        ToolParserSpec(
            name="apriel", detect=in_template("<tool_calls>[", score=0.85), syntax=(_CALLS,)
        ),
    ]
