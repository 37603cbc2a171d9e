"""Categorical on a CPU: the twin of `categorical`, row by row in the cache.

The noise of `llmplug.ops.choose_tokens` is a hash of each token. Here most tokens are settled by
the hash alone: noise that beats a score is as rare as the token is improbable, so only the few
hashes below a bound become noise.

NumPy and not torch: torch's vectorised loops round the last elements of a tensor, or of a thread's
part of it, differently, and a row must not depend on where in a batch it lies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from llmplug_standard.few import find_few

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from llmplug import SamplerRow

_UINT64 = 2**64 - 1
_STEP = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, odd
_FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_LARGEST_UNIFORM = 1 - 2.0**-24
_NUM_FIRST = 256  # tokens, and the highest, whose best score others must reach: where all are alike
_ROUNDING = 1 + 1e-5  # relative, of a float32 weight


class Categorical:
    """Keeps the buffers of one row."""

    def __init__(self, vocab_size: int) -> None:
        self._steps_V = (np.arange(1, vocab_size + 1, dtype=np.uint64)) * np.uint64(_STEP)
        self._hashes_V = np.empty(vocab_size, dtype=np.uint64)
        self._shifted_V = np.empty(vocab_size, dtype=np.uint64)
        self._bounds_V = np.empty(vocab_size, dtype=np.float32)

    def choose(self, logits_RV: torch.Tensor, rows: Sequence[SamplerRow]) -> torch.Tensor:
        """Return ids_R, int64; a row that holds a NaN gives the place of the NaN."""
        return torch.tensor(
            [
                self._choose_row(logits_V, _make_key(row.seed, row.position))
                for logits_V, row in zip(logits_RV.numpy(), rows, strict=True)
            ]
        )

    def _choose_row(self, logits_V: NDArray[np.float32], key: int) -> int:
        highest_id = int(logits_V.argmax())
        highest = logits_V[highest_id]
        if not np.isfinite(highest):  # a NaN, or all is forbidden: the engine looks at what it gets
            return highest_id
        ids = find_few(logits_V)
        if ids is None:
            ids = self._find_rivals(logits_V, key, highest_id)
        scores = logits_V[ids] + _make_noise(self._hash(key, ids))
        return int(ids[scores.argmax()])

    def _find_rivals(
        self, logits_V: NDArray[np.float32], key: int, highest_id: int
    ) -> NDArray[np.intp]:
        """Return, ascending, the tokens that score no less than the best of a few.

        logit + noise >= score, where noise = -log(-log(1 - u)), says u >= 1 - exp(-w) <= w for
        small u with w = exp(logit - score): a hash above w cannot win.
        """
        size = len(logits_V)
        first = np.append(np.arange(min(_NUM_FIRST, size)), highest_id)
        score = (logits_V[first] + _make_noise(self._hash(key, first))).max()
        bounds_V = np.subtract(logits_V, np.float32(score), out=self._bounds_V[:size])
        np.exp(bounds_V, out=bounds_V)
        bounds_V *= np.float32(2.0**32 * _ROUNDING)
        bounds_V += np.float32(1.0)  # the hash is cut to 32 bits
        hashes_V = self._hash_all(key, size)
        return np.flatnonzero(hashes_V <= bounds_V)

    def _hash_all(self, key: int, size: int) -> NDArray[np.uint64]:
        """Return the upper 32 bits of every token's hash."""
        z, shifted = self._hashes_V[:size], self._shifted_V[:size]
        np.add(self._steps_V[:size], np.uint64(key), out=z)
        _mix_into(z, shifted)
        return np.right_shift(z, np.uint64(32), out=z)

    def _hash(self, key: int, ids: NDArray[np.intp]) -> NDArray[np.uint64]:
        z = self._steps_V[ids] + np.uint64(key)
        _mix_into(z, np.empty_like(z))
        return z >> np.uint64(32)


def _make_noise(hashes: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Turn 32 bits into Gumbel noise; small ones become the greatest."""
    uniform = np.minimum((hashes.astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-32),
                         np.float32(_LARGEST_UNIFORM))  # fmt: skip
    noise: NDArray[np.float64] = -np.log(-np.log1p(-uniform.astype(np.float64)))
    return noise


def _make_key(seed: int, position: int) -> int:
    """Return the row's key. Source: SplitMix64, https://prng.di.unimi.it/splitmix64.c."""
    return _mix(_mix(seed) + (position + 1) * _STEP)


def _mix(z: int) -> int:
    z &= _UINT64
    z = ((z ^ (z >> 30)) * _FACTORS[0]) & _UINT64
    z = ((z ^ (z >> 27)) * _FACTORS[1]) & _UINT64
    return z ^ (z >> 31)


def _mix_into(z: NDArray[np.uint64], shifted: NDArray[np.uint64]) -> None:
    """Mix many, in place; `shifted` is room to work in."""
    for shift, factor in zip((30, 27), _FACTORS, strict=True):
        np.right_shift(z, np.uint64(shift), out=shifted)
        np.bitwise_xor(z, shifted, out=z)
        np.multiply(z, np.uint64(factor), out=z)
    np.right_shift(z, np.uint64(31), out=shifted)
    np.bitwise_xor(z, shifted, out=z)
