"""Words that an answer must not hold, as sequences of tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from llmplug.chat.tokenizer import Tokenizer
    from llmplug.types import SamplingParams


def encode_bad_words(sampling: SamplingParams, tokenizer: Tokenizer) -> SamplingParams:
    """Return parameters whose `bad_words` are tokens: each word as it stands, and after a space.

    A model that spells a word in other tokens than the tokenizer does is not kept from it.
    """
    if all(isinstance(word, tuple) for word in sampling.bad_words):
        return sampling
    sequences: dict[tuple[int, ...], None] = {}
    for word in sampling.bad_words:
        spellings = (word,) if isinstance(word, tuple) else (word, f" {word.lstrip()}")
        for spelling in spellings:
            ids = (
                spelling
                if isinstance(spelling, tuple)
                else tuple(tokenizer.encode(spelling, add_special_tokens=False))
            )
            if ids:
                sequences[ids] = None
    return msgspec.structs.replace(sampling, bad_words=tuple(sequences))
