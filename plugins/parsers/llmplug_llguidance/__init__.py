"""Structured output by llguidance: JSON schemas, regular expressions and Lark grammars.

`backend.py` compiles grammars and follows them; `lark.py` writes llmplug's trees in llguidance's
dialect of Lark.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmplug import GrammarSpec, hookimpl

if TYPE_CHECKING:
    from llmplug.grammar import GrammarBackend, Vocabulary


def _open(vocabulary: Vocabulary) -> GrammarBackend:
    from llmplug_llguidance.backend import LlguidanceBackend

    return LlguidanceBackend(vocabulary)


@hookimpl
def llmplug_grammars() -> list[GrammarSpec]:
    """Offer the backend `llguidance`."""
    return [GrammarSpec(name="llguidance", open=_open, priority=10)]
