"""Follow a grammar byte by byte: whether a text is a whole answer, and what may be chosen.

The vocabulary has a token for each byte, so that a text is one sequence of tokens.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from llmplug.grammar import MASK_WORD_BITS, Vocabulary, num_mask_words
from llmplug.testing.expect import expect

if TYPE_CHECKING:
    from llmplug.grammar import GrammarBackend, GrammarState, Node

CONTROL = {"<end>": 256, "<call>": 257, "</call>": 258}
END = CONTROL["<end>"]
VOCAB_SIZE = 260  # the last id stands for nothing; the last word of a mask is not full


def make_vocabulary() -> Vocabulary:
    """Return a vocabulary of all bytes, three control tokens and an id without text."""
    return Vocabulary(
        token_bytes=[bytes([i]) for i in range(256)] + [t.encode() for t in CONTROL] + [b""],
        control_ids=CONTROL,
        end_ids=frozenset({END}),
        encode=lambda text: list(text.encode()),
    )


def make_mask() -> memoryview:
    """Return an empty mask of int32 words."""
    return memoryview(bytearray(num_mask_words(VOCAB_SIZE) * 4)).cast("i")


def allowed_ids(state: GrammarState) -> list[int]:
    """Return the ids that may come next."""
    mask = make_mask()
    state.fill_mask(mask)
    ids = range(len(mask) * MASK_WORD_BITS)
    return [i for i in ids if mask[i // MASK_WORD_BITS] >> (i % MASK_WORD_BITS) & 1]


def is_answer(backend: GrammarBackend, node: Node, text: str) -> bool:
    """Return whether a text is a whole answer: each token allowed, and an end behind."""
    vocabulary = make_vocabulary()
    ids: list[int] = []
    for piece in vocabulary.split(text):
        ids += [piece] if isinstance(piece, int) else vocabulary.encode(piece)
    state = backend.compile(node).start()
    for id_ in ids:
        is_allowed = not state.is_done and id_ in allowed_ids(state)
        expect(
            state.accept(id_) == is_allowed,
            f"at {bytes([id_]) if id_ < END else id_!r} of {text!r} `fill_mask` says {is_allowed} "
            "and `accept` the contrary: they must say the same",
        )
        if not is_allowed:
            return False
    return state.is_done or END in allowed_ids(state)


def sample(
    backend: GrammarBackend, node: Node, rng: random.Random, longest: int = 400
) -> str | None:
    """Choose at random among what is allowed, sooner what ends; None: it came to no end."""
    state = backend.compile(node).start()
    ids: list[int] = []
    while not state.is_done:
        allowed = allowed_ids(state)
        expect(
            bool(allowed), f"after {bytes(ids)!r} no token is allowed, and the answer is not done"
        )
        ends = [i for i in allowed if i == END or chr(i) in '"]}']
        id_ = rng.choice(ends) if ends and rng.random() < 0.3 else rng.choice(allowed)
        if id_ == END:
            break
        if len(ids) == longest:
            return None
        expect(state.accept(id_), f"`accept` refuses {id_}, which `fill_mask` allows")
        ids.append(id_)
    return bytes(ids).decode()
