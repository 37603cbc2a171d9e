"""Keeping a row's highest logits, the lowest token id of equal ones; top-k and top-p need it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def keep_highest(
    logits_RV: torch.Tensor, thresholds_R: torch.Tensor, counts_R: torch.Tensor
) -> None:
    """Forbid all but the `counts_R` highest logits of each row.

    Args:
        thresholds_R: the lowest logit that stays, of each row.
        counts_R: how many stay, int64, >= 1.
    """
    logits_RV.masked_fill_(logits_RV < thresholds_R[:, None], float("-inf"))
    num_left_R = (logits_RV >= thresholds_R[:, None]).sum(dim=-1)
    is_tied_R = (num_left_R > counts_R) & (thresholds_R > float("-inf"))
    for row in is_tied_R.nonzero()[:, 0].tolist():
        equal_ids = (logits_RV[row] == thresholds_R[row]).nonzero()[:, 0]
        num_surplus = int(num_left_R[row] - counts_R[row])
        logits_RV[row, equal_ids[-num_surplus:]] = float("-inf")
