"""Categorical: one token by its probability, as the largest of logit + Gumbel noise.

Noise is a function of (seed, position, token id) alone: a row draws the same alone, in any batch
and after a restart, and small changes of other tokens' logits seldom change what is drawn.

Source: https://arxiv.org/abs/1411.0030 (Gumbel-max); the hash's multipliers are those of
MurmurHash3's 32-bit finaliser and of https://nullprogram.com/blog/2018/07/31/
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmplug import SamplerRow

_UINT64 = 2**64 - 1
# Noise of 31 bits lies between -2.82 and 22.19: a logit further below the highest cannot win.
_NOISE_WIDTH = 25.1


class Categorical:
    """Gumbel-max over the tokens that no filter has forbidden."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        ids_V = torch.arange(vocab_size, device=device)
        self._counters_V = _as_int32(ids_V * 0x9E3779B1)

    def choose(self, logits_RV: torch.Tensor, rows: Sequence[SamplerRow]) -> torch.Tensor:
        """Return ids_R, int64; a row that holds a NaN gives the place of the NaN.

        Row by row: vectorised loops treat the last elements of a tensor differently, in the last
        bit, and a row must not depend on where in a batch it lies.
        """
        return torch.stack(
            [
                self._choose_row(logits_V, _make_keys(row.seed, row.position))
                for logits_V, row in zip(logits_RV, rows, strict=True)
            ]
        )

    def _choose_row(self, logits_V: torch.Tensor, keys: tuple[int, int]) -> torch.Tensor:
        candidates = (logits_V > logits_V.max() - _NOISE_WIDTH).nonzero()[:, 0]
        if len(candidates) == 0:  # a NaN, or all is forbidden: the engine looks at what it gets
            return logits_V.argmax()
        if 4 * len(candidates) > len(logits_V):
            return (logits_V + make_noise(self._counters_V, keys)).argmax()
        noisy = logits_V[candidates] + make_noise(self._counters_V[candidates], keys)
        return candidates[noisy.argmax()]


def make_noise(counters: torch.Tensor, keys: tuple[int, int]) -> torch.Tensor:
    """Make Gumbel noise, float32, from int32 counters and two 32-bit keys."""
    x = counters + keys[0]
    x.bitwise_xor_((x >> 16).bitwise_and_(0xFFFF)).mul_(-2048144789)  # 0x85EBCA6B
    x.bitwise_xor_((x >> 13).bitwise_and_(0x7FFFF)).add_(keys[1]).mul_(-1028477387)  # 0xC2B2AE35
    x.bitwise_xor_((x >> 16).bitwise_and_(0xFFFF)).mul_(0x27D4EB2F)
    x.bitwise_xor_((x >> 15).bitwise_and_(0x1FFFF))
    # Uniform in (0, 1), with full precision near 0, where the largest noise comes from.
    uniform = x.bitwise_and_(0x7FFFFFFF).to(torch.float32).add_(0.5).mul_(2**-31)
    return uniform.clamp_(max=1 - 2**-24).neg_().log1p_().neg_().log_().neg_()


def _make_keys(seed: int, position: int) -> tuple[int, int]:
    """Mix a seed and a position into two signed 32-bit keys, by SplitMix64."""
    z = (seed + (position + 1) * 0x9E3779B97F4A7C15) & _UINT64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _UINT64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _UINT64
    z ^= z >> 31
    low, high = z & 0xFFFFFFFF, z >> 32
    return low - ((low >> 31) << 32), high - ((high >> 31) << 32)


def _as_int32(x: torch.Tensor) -> torch.Tensor:
    """Keep the low 32 bits of non-negative int64s, as signed numbers."""
    low = x & 0xFFFFFFFF
    return (low - ((low >> 31) << 32)).to(torch.int32)
