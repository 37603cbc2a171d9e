"""Mistral's models from v3 of their tokenizers on, and the thinking of Magistral and its kin.

Up to v7 calls are one JSON list; from v11 on each call stands alone, with its name before the
JSON. Ids of calls have nine letters and digits: templates refuse others.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from llmplug import ReasoningParserSpec, ToolParserSpec, hookimpl
from llmplug.dialect import NO_MATCH, Detect, JsonCalls, Match, NamedCalls, ReasoningSyntax

_CALLS, _ARGUMENTS, _THINK = "[TOOL_CALLS]", "[ARGS]", "[THINK]"

# https://github.com/mistralai/mistral-common/blob/main/src/mistral_common/tokens/tokenizers/instruct.py
_V3 = JsonCalls(start=(_CALLS,), holds="list")
_V11 = NamedCalls(
    start=_CALLS,
    after_name=_ARGUMENTS,
    name_pattern=r"(?P<name>[^\[\]]+)(?:\[CALL_ID\](?P<id>\w+))?",
)
_THINKING = ReasoningSyntax(start=(_THINK,), end="[/THINK]", ended_by=(_CALLS,))


def _where(*tokens: str, unless: str = "") -> Detect:
    """Look for tokens in the template; many checkpoints bring none, then in the vocabulary."""

    def detect(template: str, config: Mapping[str, Any], vocab: frozenset[str]) -> Match:
        del config
        place: str | frozenset[str] = template or vocab
        if not all(token in place for token in tokens) or (unless and unless in place):
            return NO_MATCH
        name = "template" if template else "vocabulary"
        return Match(0.9, f"its {name} holds {', '.join(tokens)}")

    return detect


def _make_id(name: str, index: int) -> str:
    del name, index
    return secrets.token_hex(5)[:9]


@hookimpl
def llmplug_tool_parsers() -> list[ToolParserSpec]:
    """Offer the calls of `mistral` (v11 and later) and `mistral_v3` (up to v7)."""
    return [
        ToolParserSpec(
            name="mistral", detect=_where(_CALLS, _ARGUMENTS), syntax=(_V11,), make_id=_make_id
        ),
        ToolParserSpec(
            name="mistral_v3",
            detect=_where(_CALLS, unless=_ARGUMENTS),
            syntax=(_V3,),
            make_id=_make_id,
        ),
    ]


@hookimpl
def llmplug_reasoning_parsers() -> list[ReasoningParserSpec]:
    """Offer the thinking of `mistral`."""
    return [
        ReasoningParserSpec(
            name="mistral",
            detect=_where(_THINK, _THINKING.end),
            syntax=_THINKING,
            effort_variable="reasoning_effort",
        )
    ]
