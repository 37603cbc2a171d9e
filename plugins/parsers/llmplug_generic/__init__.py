"""Calls for models that know no way of their own: JSON between `<tool_call>` tags.

Their templates have no place for tools; the server tells of them in plain messages, with an
example in this form, and a grammar can hold any model to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmplug import ToolParserSpec, hookimpl
from llmplug.dialect import JsonCalls, Match

_CALLS = JsonCalls(start=("<tool_call>",), end="</tool_call>")


def _detect(template: str, config: Mapping[str, Any], vocab: frozenset[str]) -> Match:
    """Fit every model, and worse than anything else that fits."""
    del template, config, vocab
    return Match(0.01, "nothing is known of its own way")


@hookimpl
def llmplug_tool_parsers() -> list[ToolParserSpec]:
    """Offer the calls of `generic`."""
    return [ToolParserSpec(name="generic", detect=_detect, syntax=(_CALLS,))]
