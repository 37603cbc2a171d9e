"""A way to write thinking: `[[think]] ... [[/think]]` before the answer."""

from __future__ import annotations

from llmplug import ReasoningParserSpec, hookimpl
from llmplug.dialect import ReasoningSyntax, in_template

_START, _END = "[[think]]", "[[/think]]"


@hookimpl
def llmplug_reasoning_parsers() -> list[ReasoningParserSpec]:
    """Offer it for models whose chat template writes the marker."""
    return [
        ReasoningParserSpec(
            name="acme_plugin",
            detect=in_template(_START, score=0.9),
            syntax=ReasoningSyntax(start=(_START,), end=_END),
        )
    ]
