"""Hold sequences to their grammars: which tokens may come next, found while the model runs.

Legend: S sequences to choose a token for, R of these with a grammar, V vocabulary, W words of 32
ids each.

Two threads beside the engine's: one compiles, so that a slow grammar holds up nobody else; one
fills the masks of a step while the forward pass runs.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from llmplug.engine.freed_memory import give_back_freed
from llmplug.errors import EngineError, UnsupportedParameter
from llmplug.grammar import MASK_WORD_BITS, decode_grammar, num_mask_words

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llmplug.engine.sequence import Sequence as EngineSequence
    from llmplug.grammar import CompiledGrammar, GrammarBackend, GrammarState
    from llmplug.ops import KernelTable

CACHE_BYTES = 64 * 2**20  # of compiled grammars that nobody may be using
LARGE_BYTES = 4 * 2**20  # a grammar that took several times as much while it was compiled
# What each byte of a mask adds to the logits of its eight ids: a sum that is ready beside the
# forward pass takes a CPU a small part of the time that unpacking bits and `masked_fill` take.
_BIAS_OF_BYTE = np.where(
    np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little") == 1,
    np.float32(0),
    np.float32(-np.inf),
)


@dataclass(frozen=True, slots=True)
class Masks:
    """The masks of a step: which rows they belong to, and the rows that have none for an error."""

    rows: list[int]
    words_RW: array[int]
    bias_RV: NDArray[np.float32] | None  # 0 or -inf; None: the device finds it out
    errors: dict[int, Exception]


class GrammarMasks:
    """Compiled grammars, and the masks that follow from them."""

    def __init__(
        self,
        open_backend: Callable[[], GrammarBackend] | None,
        vocab_size: int,
        device: torch.device,
        ops: KernelTable,
    ) -> None:
        """Take what opens a backend, as the first grammar does; None: there is none."""
        self._open_backend = open_backend
        self._backend: GrammarBackend | None = None
        self._num_words = num_mask_words(vocab_size)
        self._vocab_size = vocab_size
        self._device = device
        self._ops = ops
        self._compiled: OrderedDict[bytes, Future[CompiledGrammar]] = OrderedDict()
        self._compiler = ThreadPoolExecutor(1, thread_name_prefix="grammar-compile")
        self._filler = ThreadPoolExecutor(1, thread_name_prefix="grammar-fill")

    def compile(self, grammar: bytes) -> Future[CompiledGrammar]:
        """Compile a grammar, or find it compiled; the future raises GrammarError.

        Raises:
            UnsupportedParameter: no backend is installed.
        """
        if self._open_backend is None:
            raise UnsupportedParameter(
                "No installed plugin offers a grammar backend.", param="response_format"
            )
        found = self._compiled.get(grammar)
        if found is None or (found.done() and found.exception() is not None):
            found = self._compiler.submit(self._compile, grammar)
            self._compiled[grammar] = found
            self._evict()
        self._compiled.move_to_end(grammar)
        return found

    def start_fill(self, sequences: Sequence[EngineSequence]) -> Future[Masks] | None:
        """Begin to find out what may come next in each of `sequences`; None: none has a grammar."""
        states = [
            (row, each.grammar) for row, each in enumerate(sequences) if each.grammar is not None
        ]
        return self._filler.submit(self._fill, states) if states else None

    def apply(self, masks: Masks, logits_SV: torch.Tensor) -> None:
        """Forbid what no grammar allows: -inf."""
        if not masks.rows:
            return
        if masks.bias_RV is not None:
            # By NumPy: torch would wake its threads for a sum of some 50 us.
            values_SV = logits_SV.numpy()
            for row, bias_V in zip(masks.rows, masks.bias_RV, strict=True):
                values_SV[row] += bias_V
            return
        rows_R = torch.tensor(masks.rows, device=self._device)
        words_RW = torch.frombuffer(masks.words_RW, dtype=torch.int32).view(len(masks.rows), -1)
        self._ops.mask_tokens(logits_SV, rows_R, words_RW.to(self._device))

    def _compile(self, grammar: bytes) -> CompiledGrammar:
        if self._backend is None:
            assert self._open_backend is not None  # noqa: S101 - `compile` has looked
            self._backend = self._open_backend()
        compiled = self._backend.compile(decode_grammar(grammar))
        if compiled.num_bytes >= LARGE_BYTES:
            give_back_freed()
        return compiled

    def _fill(self, states: Sequence[tuple[int, GrammarState]]) -> Masks:
        words_RW = array("i", bytes(4 * self._num_words * len(states)))
        view = memoryview(words_RW)
        errors: dict[int, Exception] = {}
        for place, (row, state) in enumerate(states):
            mask = view[place * self._num_words : (place + 1) * self._num_words]
            try:
                state.fill_mask(mask)
            except Exception as error:  # noqa: BLE001 - a plugin's; it ends this row alone
                errors[row] = error
                mask[:] = array("i", [-1] * self._num_words)
        bias_RV = self._make_bias(words_RW) if self._device.type == "cpu" else None
        return Masks([row for row, _ in states], words_RW, bias_RV, errors)

    def _make_bias(self, words_RW: array[int]) -> NDArray[np.float32]:
        bias = np.take(_BIAS_OF_BYTE, np.frombuffer(words_RW, dtype=np.uint8), axis=0)
        return bias.reshape(-1, self._num_words * MASK_WORD_BITS)[:, : self._vocab_size]

    def _evict(self) -> None:
        """Forget what was not asked for longest, until the rest is small enough."""
        sizes = {key: _num_bytes(each) for key, each in self._compiled.items()}
        total = sum(sizes.values())
        for key in list(self._compiled)[:-1]:
            if total <= CACHE_BYTES:
                return
            total -= sizes[key]
            del self._compiled[key]


def _num_bytes(compiled: Future[CompiledGrammar]) -> int:
    if not compiled.done() or compiled.exception() is not None:
        return 0
    return compiled.result().num_bytes


def find_breach(sequence: EngineSequence, token_id: int) -> Exception | None:
    """Go on in a sequence's grammar; what went wrong, if anything did."""
    try:
        is_allowed = sequence.follow_grammar(token_id)
    except Exception as error:  # noqa: BLE001 - a plugin's; it ends this row alone
        return error
    if is_allowed:
        return None
    return EngineError(f"token {token_id} was chosen, which the grammar does not allow")
