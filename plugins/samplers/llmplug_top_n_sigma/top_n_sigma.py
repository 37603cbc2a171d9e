"""Top-n-sigma: a token stays if logit >= highest - n * sigma.

Sigma is the standard deviation of the logits that nobody has forbidden yet. Both sides scale with
the temperature, so that it changes nothing about who stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmplug import SamplerRow


class TopNSigma:
    """All rows at once."""

    def apply(self, logits_RV: torch.Tensor, rows: Sequence[SamplerRow]) -> None:
        """Forbid what is too far below the highest."""
        factors = [row.params.top_n_sigma for row in rows]
        is_allowed_RV = logits_RV != float("-inf")
        # Of the distances, as logits may lie far from 0; float64, as many are summed.
        highest_R1 = logits_RV.amax(dim=-1, keepdim=True)
        distances_RV = torch.where(is_allowed_RV, (highest_R1 - logits_RV).double(), 0.0)
        counts_R1 = is_allowed_RV.sum(dim=-1, keepdim=True)
        means_R1 = distances_RV.sum(dim=-1, keepdim=True) / counts_R1
        squares_RV = torch.where(is_allowed_RV, (distances_RV - means_R1).square(), 0.0)
        sigmas_R1 = (squares_RV.sum(dim=-1, keepdim=True) / counts_R1).sqrt()
        widths_R1 = torch.tensor(factors, device=logits_RV.device)[:, None] * sigmas_R1
        logits_RV.masked_fill_(distances_RV > widths_R1, float("-inf"))
