"""Presence and frequency: logit -= presence + frequency * count, of each token in the output.

Source: OpenAI's `presence_penalty` and `frequency_penalty`; the prompt does not count.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import torch

from llmplug_standard.pending_tokens import count_tokens, drop_padding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmplug import SamplerRow


class PresenceFrequency:
    """Makes tokens of the output less probable; negative penalties, more."""

    def apply(
        self,
        logits_RV: torch.Tensor,
        rows: Sequence[SamplerRow],
        pending_R: torch.Tensor | None = None,
    ) -> None:
        """Subtract each row's penalties from the tokens that it has generated."""
        entries: list[tuple[int, int, int]] = []
        for place, row in enumerate(rows):
            counts = Counter(row.output_ids)
            entries += [(place, token_id, count) for token_id, count in counts.items()]
        if not entries and pending_R is None:
            return
        device = logits_RV.device
        rows_E, ids_E, counts_E = drop_padding(count_tokens(entries, pending_R, device))
        penalties = [(row.params.presence_penalty, row.params.frequency_penalty) for row in rows]
        penalties_R2 = torch.tensor(penalties, dtype=torch.float64, device=device)
        presence_E, frequency_E = penalties_R2[rows_E].unbind(1)
        logits_RV[rows_E, ids_E] -= (presence_E + frequency_E * counts_E).float()
