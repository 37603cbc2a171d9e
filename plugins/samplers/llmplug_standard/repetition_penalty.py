"""Repetition penalty: of each token in prompt or output, logit / p if positive, else logit * p.

Source: https://arxiv.org/abs/1909.05858, section 4.1
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmplug import SamplerRow


class RepetitionPenalty:
    """Makes tokens that are there already less probable; below 1, more."""

    def apply(self, logits_RV: torch.Tensor, rows: Sequence[SamplerRow]) -> None:
        """Scale the logits of the tokens that each row has seen."""
        places: list[int] = []
        ids: list[int] = []
        penalties: list[float] = []
        for place, row in enumerate(rows):
            seen = set(row.seen_ids())
            places += [place] * len(seen)
            ids += seen
            penalties += [row.params.repetition_penalty] * len(seen)
        device = logits_RV.device
        where = (torch.tensor(places, device=device), torch.tensor(ids, device=device))
        penalty = torch.tensor(penalties, device=device)
        logits = logits_RV[where]
        logits_RV[where] = torch.where(logits > 0, logits / penalty, logits * penalty)
