"""Whether draws are plausible: by Pearson's statistic, and by what neighbours say of each other.

Seeds are fixed where these are used, so a test that passes goes on passing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_LEAST_EXPECTED = 5  # a class that is expected less often is put together with others
_DEVIATIONS = 4  # chance alone goes further once in some ten thousand times


def is_plausible(counts: Mapping[int, int], probs: Sequence[float]) -> bool:
    """Return whether counts come from a distribution, by Pearson's chi-square statistic.

    Args:
        counts: how often each token was drawn; Counter, or a mapping that has them all.
        probs: of each token.

    Source: https://en.wikipedia.org/wiki/Pearson%27s_chi-squared_test
    """
    total = sum(counts.values())
    classes: list[tuple[float, float]] = []
    rest = [0.0, 0.0]
    for token_id, prob in enumerate(probs):
        expected, found = prob * total, counts.get(token_id, 0)
        if expected < _LEAST_EXPECTED:
            rest = [rest[0] + found, rest[1] + expected]
        else:
            classes.append((found, expected))
    if rest[1] > 1:
        classes.append((rest[0], rest[1]))
    elif rest[0] > _LEAST_EXPECTED:
        return False
    statistic = sum((found - expected) ** 2 / expected for found, expected in classes)
    freedom = max(len(classes) - 1, 1)  # mean of the statistic; its variance is twice that
    return statistic < freedom + _DEVIATIONS * math.sqrt(2 * freedom)


def find_correlation(bits_R: torch.Tensor, lags: Sequence[int] = (1, 2, 3, 64)) -> int | None:
    """Return a distance at which draws of 0 or 1, equally likely, know of each other, or None."""
    signs_R = bits_R.double() * 2 - 1
    for lag in lags:
        correlation = (signs_R[lag:] * signs_R[:-lag]).mean().abs()
        if correlation > _DEVIATIONS / math.sqrt(len(signs_R)):
            return lag
    return None
