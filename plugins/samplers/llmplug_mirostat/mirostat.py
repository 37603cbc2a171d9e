"""Mirostat: surprise is cut at mu bits, and mu follows what the chosen tokens have surprised.

Version 2 forbids tokens of -log2 P > mu. Version 1 estimates how the probabilities fall (Zipf's
exponent s, from the likeliest 100), and keeps as many tokens as would have an expected surprise
of mu. Then a token is drawn, and mu -= eta * (-log2 P(token) - tau), P before the cut. Mu begins
at 2 tau; it is the state that goes with the sequence.

Source: https://arxiv.org/abs/2007.14966, algorithms 1 (mirostat) and 2 (mirostat 2.0)
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmplug import SamplerRow
    from llmplug.ops import KernelTable

_NUM_RANKS = 100  # the paper's m


class Mirostat:
    """Both versions; rows are cut one by one and drawn together."""

    def __init__(self, vocab_size: int, ops: KernelTable) -> None:
        self._vocab_size = vocab_size
        self._ops = ops

    def choose(self, logits_RV: torch.Tensor, rows: Sequence[SamplerRow]) -> torch.Tensor:
        """Return ids_R, int64, and leave each row its new mu."""
        surprise_RV = logits_RV.log_softmax(dim=-1) / -math.log(2)
        mus = [_read_mu(row) for row in rows]
        cut_RV = logits_RV.masked_fill(self._find_surprising(surprise_RV, mus, rows), float("-inf"))
        device = logits_RV.device
        ids_R: torch.Tensor = self._ops.choose_tokens(
            cut_RV,
            torch.ones(len(rows), device=device),
            torch.tensor([row.seed for row in rows], device=device),
            torch.tensor([row.position for row in rows], device=device),
        )
        observed = surprise_RV.gather(1, ids_R[:, None])[:, 0].tolist()
        for row, mu, surprise in zip(rows, mus, observed, strict=True):
            row.next_state = mu - row.params.mirostat_eta * (surprise - row.params.mirostat_tau)
        return ids_R

    def _find_surprising(
        self, surprise_RV: torch.Tensor, mus: Sequence[float], rows: Sequence[SamplerRow]
    ) -> torch.Tensor:
        """Return bool_RV, true for what is cut; never the likeliest token."""
        bounds = [
            mu if row.params.mirostat == 2 else self._find_bound(surprise_V, mu)
            for surprise_V, mu, row in zip(surprise_RV, mus, rows, strict=True)
        ]
        bounds_R1 = torch.tensor(bounds, device=surprise_RV.device)[:, None]
        lowest_R1 = surprise_RV.amin(dim=-1, keepdim=True)
        return surprise_RV > torch.maximum(bounds_R1, lowest_R1)

    def _find_bound(self, surprise_V: torch.Tensor, mu: float) -> float:
        """Return the surprise of the last token that version 1 keeps."""
        size = len(surprise_V)
        lowest = surprise_V.topk(min(_NUM_RANKS, size), largest=False).values.tolist()
        count = _count_kept(_estimate_exponent(lowest), mu, self._vocab_size)
        if count <= len(lowest):
            return float(lowest[count - 1])
        if count >= size:
            return math.inf
        return float(surprise_V.kthvalue(count).values)


def _read_mu(row: SamplerRow) -> float:
    return 2 * row.params.mirostat_tau if row.state is None else float(row.state)


def _estimate_exponent(surprise: Sequence[float]) -> float:
    """Fit s in P(rank) ~ rank ^ -s to the likeliest tokens' surprise in bits, ascending."""
    above, below = 0.0, 0.0
    for i in range(len(surprise) - 1):
        if not math.isfinite(surprise[i + 1]):
            break
        step = math.log((i + 2) / (i + 1))
        above += step * (surprise[i + 1] - surprise[i]) * math.log(2)
        below += step * step
    return above / below if below else 1.0


def _count_kept(exponent: float, mu: float, size: int) -> int:
    """Return k of the paper's equation 30, from 1 to the size of the vocabulary."""
    epsilon = exponent - 1
    if exponent <= 0:  # flat: nothing falls
        return size
    try:
        if abs(epsilon) < 1e-9:  # what the quotient tends to
            scaled = 2**mu / math.log(size)
        else:
            scaled = epsilon * 2**mu / (1 - size**-epsilon)
        count = scaled ** (1 / exponent)
    except OverflowError:
        return size
    return int(min(max(count, 1), size))
