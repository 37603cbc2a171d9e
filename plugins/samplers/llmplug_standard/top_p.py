"""Top-p: the fewest most probable tokens that hold `top_p` of the probability stay.

On any device; `top_p_cpu` is its fast twin.

Source: https://arxiv.org/abs/1904.09751, section 3.1
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from llmplug.ops import send_to_device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmplug import SamplerRow


class TopP:
    """Sorts the vocabulary, which a GPU does fast, and waits for nothing."""

    def apply(self, logits_RV: torch.Tensor, rows: Sequence[SamplerRow]) -> None:
        """Forbid what lies beyond each row's share of the probability."""
        device = logits_RV.device
        shares = [row.params.top_p for row in rows]
        shares_R1 = send_to_device(shares, device, torch.float64)[:, None]
        # Stable: the lowest id of equal ones comes first, and stays.
        sorted_RV, ids_RV = logits_RV.sort(dim=-1, descending=True, stable=True)
        probs_RV = sorted_RV.softmax(dim=-1, dtype=torch.float64)
        # A token stays while those before it hold less than the share.
        before_RV = probs_RV.cumsum(dim=-1) - probs_RV
        is_beyond_RV = before_RV >= shares_R1
        is_beyond_RV[:, 0] = False
        logits_RV.scatter_(1, ids_RV, sorted_RV.masked_fill_(is_beyond_RV, float("-inf")))
