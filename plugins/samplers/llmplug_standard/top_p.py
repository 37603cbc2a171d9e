"""Top-p: the fewest most probable tokens that hold `top_p` of the probability stay.

Source: https://arxiv.org/abs/1904.09751, section 3.1
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from llmplug import SamplerRow


class TopP:
    """Sorts only the tokens that can be among those that stay."""

    def apply(self, logits_RV: torch.Tensor, rows: Sequence[SamplerRow]) -> None:
        """Forbid what lies beyond each row's share of the probability."""
        for logits_V, row in zip(logits_RV, rows, strict=True):
            keep_share(logits_V, row.params.top_p)


def keep_share(logits_V: torch.Tensor, share: float) -> None:
    """Forbid all but the most probable tokens of one row; the lowest id of equal ones stays.

    All tokens less probable than (1 - share) / V hold less than 1 - share together, so that none
    of them stays: they need no sorting.
    """
    probs_V = logits_V.softmax(dim=-1)
    # Half of the bound leaves room for rounding.
    ids = (probs_V > 0.5 * (1 - share) / len(probs_V)).nonzero()[:, 0]
    probs, order = probs_V[ids].sort(descending=True, stable=True)
    # A token stays while those before it hold less than the share.
    num_kept = int((probs.cumsum(dim=-1) < share).sum()) + 1
    kept = ids[order[:num_kept]]
    logits = logits_V[kept]
    logits_V.fill_(float("-inf"))
    logits_V[kept] = logits
