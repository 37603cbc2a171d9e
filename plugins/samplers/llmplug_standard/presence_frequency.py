"""Presence and frequency: logit -= presence + frequency * count, of each token in the output.

Source: OpenAI's `presence_penalty` and `frequency_penalty`; the prompt does not count.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmplug import SamplerRow


class PresenceFrequency:
    """Makes tokens of the output less probable; negative penalties, more."""

    def apply(self, logits_RV: torch.Tensor, rows: Sequence[SamplerRow]) -> None:
        """Subtract each row's penalties from the tokens that it has generated."""
        places: list[int] = []
        ids: list[int] = []
        penalties: list[float] = []
        for place, row in enumerate(rows):
            presence, frequency = row.params.presence_penalty, row.params.frequency_penalty
            counts = Counter(row.output_ids)
            places += [place] * len(counts)
            ids += counts.keys()
            penalties += [presence + frequency * count for count in counts.values()]
        if not ids:
            return
        device = logits_RV.device
        where = (torch.tensor(places, device=device), torch.tensor(ids, device=device))
        logits_RV[where] -= torch.tensor(penalties, device=device)
