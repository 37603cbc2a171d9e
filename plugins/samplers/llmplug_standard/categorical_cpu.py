"""Categorical on a CPU: the twin of `categorical`, row by row in the cache.

One number a row and a sum, for Gumbel noise would need a hash of every token: 32 rows of 49,152
logits of a model take 5 ms on one core of an EPYC 7003, and took 38 ms with noise in torch.

NumPy and not torch: torch's vectorised loops round the last elements of a tensor, or of a thread's
part of it, differently, and a row must not depend on where in a batch it lies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from llmplug_standard.few import find_few
from llmplug_standard.uniform import make_uniform

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from llmplug import SamplerRow

_BLOCK = 256  # tokens; sums of blocks are found faster than the running sum of all


class Categorical:
    """Sums blocks, finds the block, then the token in it."""

    def __init__(self, vocab_size: int) -> None:
        # Weights of one row; those that fill the last block up stay 0.
        self._weights = np.zeros(-(-vocab_size // _BLOCK) * _BLOCK, dtype=np.float32)

    def choose(self, logits_RV: torch.Tensor, rows: Sequence[SamplerRow]) -> torch.Tensor:
        """Return ids_R, int64; a row that holds a NaN gives the place of the NaN."""
        return torch.tensor(
            [
                self._choose_row(logits_V, make_uniform(row.seed, row.position))
                for logits_V, row in zip(logits_RV.numpy(), rows, strict=True)
            ]
        )

    def _choose_row(self, logits_V: NDArray[np.float32], uniform: float) -> int:
        highest = logits_V.max()
        if not np.isfinite(highest):  # a NaN, or all is forbidden: the engine looks at what it gets
            return int(logits_V.argmax())
        ids = find_few(logits_V)
        if ids is not None:
            return int(ids[_draw(np.exp(logits_V[ids] - highest), uniform)[0]])
        weights_V = self._weights[: len(logits_V)]
        np.subtract(logits_V, highest, out=weights_V)
        np.exp(weights_V, out=weights_V)
        blocks = self._weights.reshape(-1, _BLOCK)
        block, rest = _draw(blocks.sum(axis=1), uniform)
        return block * _BLOCK + _draw(blocks[block], rest)[0]


def _draw(weights: NDArray[np.float32], uniform: float) -> tuple[int, float]:
    """Return the place in which the uniform number falls, and where in it, in [0, 1]."""
    sums = weights.cumsum(dtype=np.float64)
    target = uniform * sums[-1]
    place = int(sums.searchsorted(target, side="right"))
    if place == len(sums):  # the number was 1, by rounding
        place = int(np.flatnonzero(weights)[-1])
    before = sums[place - 1] if place else 0.0
    return place, float((target - before) / weights[place])
