"""Compile grammars with xgrammar and follow them token by token."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from xgrammar import CompiledGrammar, GrammarCompiler, GrammarMatcher, TokenizerInfo

from llmplug import GrammarError
from llmplug.grammar import MASK_WORD_BITS, num_mask_words
from llmplug_xgrammar.tags import write_tag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmplug.grammar import Node, Vocabulary

Mask = NDArray[np.int32]

# No text begins with this byte, so that a control token is never taken for text.
_NO_TEXT = b"\xff"


class XgrammarBackend:
    """Compiles grammars for one vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        tokens = list(vocabulary.token_bytes)
        for id_ in vocabulary.control_ids.values():
            tokens[id_] = _NO_TEXT + str(id_).encode()
        info = TokenizerInfo(
            tokens, vocab_size=len(tokens), stop_token_ids=sorted(vocabulary.end_ids)
        )
        self._compiler = GrammarCompiler(info, max_threads=1, cache_enabled=False)
        self._ends = _make_mask(len(tokens), list(vocabulary.end_ids))
        self._known = _make_mask(len(tokens), range(len(tokens)))

    def compile(self, node: Node) -> XgrammarGrammar:
        """Compile a tree; see `GrammarBackend`."""
        try:
            compiled = self._compiler.compile_structural_tag(write_tag(node, self._vocabulary))
        except GrammarError:
            raise
        except Exception as error:  # noqa: BLE001 - the library raises what it likes
            raise GrammarError(_plain_words(str(error))) from None
        return XgrammarGrammar(compiled, self._ends, self._known)


class XgrammarGrammar:
    """A compiled grammar."""

    def __init__(self, compiled: CompiledGrammar, ends: Mask, known: Mask) -> None:
        self._compiled = compiled
        self._ends = ends
        self._known = known

    @property
    def num_bytes(self) -> int:
        """About how much memory it holds."""
        return int(self._compiled.memory_size_bytes)

    def start(self) -> XgrammarState:
        """Begin an answer."""
        return XgrammarState(GrammarMatcher(self._compiled), self._ends, self._known)


class XgrammarState:
    """Where one answer stands.

    Args:
        ends: the mask of what ends an answer.
        known: the mask of all ids; the last word has more bits.
    """

    def __init__(self, matcher: GrammarMatcher, ends: Mask, known: Mask) -> None:
        self._matcher = matcher
        self._ends = ends
        self._known = known
        self._next: Mask | None = None  # where it is found already

    def fill_mask(self, mask: memoryview) -> None:
        """Write which ids may come next; see `GrammarState`."""
        np.frombuffer(mask, dtype=np.int32)[:] = self._find_mask()

    def accept(self, token_id: int) -> bool:
        """Go on by one token; see `GrammarState`."""
        allowed = self._find_mask()
        if not allowed[token_id // MASK_WORD_BITS] >> (token_id % MASK_WORD_BITS) & 1:
            return False
        self._next = None
        return bool(self._matcher.accept_token(token_id))

    @property
    def is_done(self) -> bool:
        """Whether nothing but an end may follow."""
        if self._matcher.is_terminated():
            return True
        return self._matcher.is_completed() and np.array_equal(self._find_mask(), self._ends)

    def _find_mask(self) -> Mask:
        if self._next is None:
            self._next = np.full_like(self._ends, -1)
            self._matcher.fill_next_token_bitmask(self._next[None])
            self._next &= self._known
        return self._next


def _make_mask(vocab_size: int, ids: Sequence[int]) -> Mask:
    bits = np.zeros(num_mask_words(vocab_size) * MASK_WORD_BITS, dtype=bool)
    bits[ids] = True
    return np.packbits(bits, bitorder="little").view(np.int32)


def _plain_words(message: str) -> str:
    """The library's words, without its places in its own source."""
    line = message.strip().partition("\n")[0]
    return re.sub(r"^(\[[\d:]+\] )?(\S+:\d+: )?(Check failed: )?", "", line)[:500]
