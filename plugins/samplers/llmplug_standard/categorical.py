"""Categorical: one token by its probability, on any device; `categorical_cpu` is its fast twin.

The inverse of the cumulative distribution at one uniform number, which is a function of
(seed, position) alone: a row draws the same alone, in any batch and after a restart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from llmplug_standard.uniform import make_uniform

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmplug import SamplerRow


class Categorical:
    """All rows at once, without waiting for the device."""

    def choose(self, logits_RV: torch.Tensor, rows: Sequence[SamplerRow]) -> torch.Tensor:
        """Return ids_R, int64; a row that holds a NaN gives the place of the NaN.

        The sums are float64: in what order a device adds changes less than one draw in 10^12.
        """
        numbers = [make_uniform(row.seed, row.position) for row in rows]
        uniform_R = torch.tensor(numbers, dtype=torch.float64, device=logits_RV.device)
        highest_R = logits_RV.amax(dim=-1)
        weights_RV = (logits_RV - highest_R[:, None]).exp_()
        sums_RV = weights_RV.cumsum(dim=-1, dtype=torch.float64)
        targets_R = uniform_R * sums_RV[:, -1]
        is_beyond_RV = (sums_RV > targets_R[:, None]) & (weights_RV > 0)
        ids_R = is_beyond_RV.to(torch.uint8).argmax(dim=-1)  # the first of equal ones
        # A NaN, or all is forbidden: the engine looks at what it gets.
        return torch.where(highest_R.isfinite(), ids_R, logits_RV.argmax(dim=-1))
