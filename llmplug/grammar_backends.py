"""Which plugin holds answers to a form, and its backend for one model's vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from llmplug.grammar import GrammarBackend
    from llmplug.registry import Registry
    from llmplug.specs import Checkpoint, GrammarSpec


def choose_backend(name: str, registry: Registry) -> GrammarSpec | None:
    """Return the backend of structured output that a config names.

    Args:
        name: `auto` is the highest priority, then the first name.
    Raises:
        PluginError: nobody offers it.
    """
    if name == "none":
        return None
    if name != "auto":
        return registry.grammars.get(name).spec
    specs = [entry.spec for entry in registry.grammars]
    return min(specs, key=lambda spec: (-spec.priority, spec.name), default=None)


def open_backend(
    spec: GrammarSpec, checkpoint: Checkpoint, vocab_size: int, end_ids: Collection[int]
) -> GrammarBackend:
    """Open a backend for a model's vocabulary.

    Args:
        vocab_size: width of the logits.
        end_ids: tokens that end an answer.
    """
    from llmplug.chat.tokenizer import Tokenizer
    from llmplug.chat.vocabulary import make_vocabulary

    tokenizer = Tokenizer(checkpoint.tokenizer)
    return spec.open(make_vocabulary(tokenizer, vocab_size, end_ids))
