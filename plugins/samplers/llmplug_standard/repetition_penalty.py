"""Repetition penalty: of each token in prompt or output, logit / p if positive, else logit * p.

Source: https://arxiv.org/abs/1909.05858, section 4.1
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from llmplug_standard.pending_tokens import count_tokens, drop_padding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmplug import SamplerRow


class RepetitionPenalty:
    """Makes tokens that are there already less probable; below 1, more."""

    def apply(
        self,
        logits_RV: torch.Tensor,
        rows: Sequence[SamplerRow],
        pending_R: torch.Tensor | None = None,
    ) -> None:
        """Scale the logits of the tokens that each row has seen."""
        entries = [
            (place, token_id, 1)
            for place, row in enumerate(rows)
            for token_id in set(row.seen_ids())
        ]
        device = logits_RV.device
        rows_E, ids_E, _ = drop_padding(count_tokens(entries, pending_R, device))
        penalty_R = torch.tensor([row.params.repetition_penalty for row in rows], device=device)
        penalty_E, logits_E = penalty_R[rows_E], logits_RV[rows_E, ids_E]
        penalised_E = torch.where(logits_E > 0, logits_E / penalty_E, logits_E * penalty_E)
        logits_RV[rows_E, ids_E] = penalised_E
