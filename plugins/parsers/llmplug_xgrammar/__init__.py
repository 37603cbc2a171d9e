"""Structured output by xgrammar, for those who ask for it: `pip install 'llmplug[xgrammar]'`.

`backend.py` compiles grammars and follows them; `tags.py` writes llmplug's trees as xgrammar's
structural tags. Importing the library imports torch and transformers, so it is chosen only by the
config (`grammar: {backend: xgrammar}`) or where no other backend is installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmplug import GrammarSpec, PluginError, hookimpl

if TYPE_CHECKING:
    from llmplug.grammar import GrammarBackend, Vocabulary


def _open(vocabulary: Vocabulary) -> GrammarBackend:
    try:
        from llmplug_xgrammar.backend import XgrammarBackend
    except ModuleNotFoundError as error:
        raise PluginError(
            f"the grammar backend 'xgrammar' cannot run without {error.name}: "
            "pip install 'llmplug[xgrammar]'"
        ) from None
    return XgrammarBackend(vocabulary)


@hookimpl
def llmplug_grammars() -> list[GrammarSpec]:
    """Offer the backend `xgrammar`."""
    return [GrammarSpec(name="xgrammar", open=_open, priority=-10)]
