"""What a grammar backend must know of a tokenizer."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from llmplug.grammar import Vocabulary

if TYPE_CHECKING:
    from llmplug.chat.tokenizer import Tokenizer


def make_vocabulary(tokenizer: Tokenizer, vocab_size: int, end_ids: Collection[int]) -> Vocabulary:
    """Describe a tokenizer; ids beyond its last, up to the width of the logits, are empty."""
    return Vocabulary(
        token_bytes=[tokenizer.token_bytes(id_) for id_ in range(vocab_size)],
        control_ids={tokenizer.token_text(id_): id_ for id_ in tokenizer.control_ids},
        end_ids=frozenset(end_ids),
        encode=lambda text: tokenizer.encode(text, add_special_tokens=False, allow_control=False),
    )
