"""A dialect of tool calls: `[[call]]{"name": ..., "arguments": ...}[[/call]]`.

A table says how calls are written; llmplug reads them by it, streamed and not, and writes the
grammar that forced calls must follow. See `llmplug.dialect` for the other tables.
"""

from __future__ import annotations

from llmplug import ToolParserSpec, hookimpl
from llmplug.dialect import JsonCalls, in_template

_START, _END = "[[call]]", "[[/call]]"


@hookimpl
def llmplug_tool_parsers() -> list[ToolParserSpec]:
    """Offer it for models whose chat template writes the marker."""
    return [
        ToolParserSpec(
            name="acme_plugin",
            detect=in_template(_START, score=0.9),
            syntax=(JsonCalls(start=(_START,), end=_END),),
        )
    ]
