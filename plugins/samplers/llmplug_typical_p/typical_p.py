"""Typical-p: sort tokens by |-log P - H|, keep the first that hold `typical_p` of the probability.

H is the entropy of the distribution. The likeliest token may be among those that go.

Source: https://arxiv.org/abs/2202.00666, section 3
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmplug import SamplerRow


class TypicalP:
    """All rows at once; one sort each."""

    def apply(self, logits_RV: torch.Tensor, rows: Sequence[SamplerRow]) -> None:
        """Forbid what is less typical."""
        shares = [row.params.typical_p for row in rows]
        device = logits_RV.device
        shares_R1 = torch.tensor(shares, dtype=torch.float64, device=device)[:, None]
        logprobs_RV = logits_RV.log_softmax(dim=-1, dtype=torch.float64)
        probs_RV = logprobs_RV.exp()
        # What is forbidden has no surprise: 0 * inf would be NaN.
        entropies_R1 = -torch.where(probs_RV > 0, probs_RV * logprobs_RV, 0.0).sum(-1, keepdim=True)
        # Stable: the lowest id of equally typical ones comes first, and stays.
        ids_RV = (logprobs_RV + entropies_R1).abs().sort(dim=-1, stable=True).indices
        sorted_RV = probs_RV.gather(1, ids_RV)
        # A token stays while those before it hold less than the share.
        is_beyond_RV = sorted_RV.cumsum(dim=-1) - sorted_RV >= shares_R1
        is_beyond_RV[:, 0] = False
        is_out_RV = torch.empty_like(is_beyond_RV).scatter_(1, ids_RV, is_beyond_RV)
        logits_RV.masked_fill_(is_out_RV, float("-inf"))
