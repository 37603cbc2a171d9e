"""Min-p: a token stays if its probability is at least `min_p` times the highest.

Source: https://arxiv.org/abs/2407.01082
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmplug.ops import send_to_device

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from llmplug import SamplerRow


class MinP:
    """In logits the bound is a difference, so that no softmax is needed."""

    def apply(self, logits_RV: torch.Tensor, rows: Sequence[SamplerRow]) -> None:
        """Forbid what is less probable."""
        shares = send_to_device([row.params.min_p for row in rows], logits_RV.device)
        bounds_R1 = logits_RV.amax(dim=-1, keepdim=True) + shares.log()[:, None]
        logits_RV.masked_fill_(logits_RV < bounds_R1, float("-inf"))
