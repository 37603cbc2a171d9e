"""The penalties of repetition, presence and frequency, of all rows, in one op."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import torch

from llmplug.ops import send_to_device
from llmplug_standard.pending_tokens import count_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmplug import SamplerRow
    from llmplug.ops import KernelTable


class PenaliseTokens:
    """The op `penalise_tokens`, of the tokens that each row has seen."""

    def __init__(self, ops: KernelTable) -> None:
        self._ops = ops

    def apply(
        self,
        logits_RV: torch.Tensor,
        rows: Sequence[SamplerRow],
        pending_R: torch.Tensor | None = None,
    ) -> None:
        """Make seen tokens less probable."""
        entries: list[tuple[int, int, int]] = []
        for place, row in enumerate(rows):
            counts = Counter(row.output_ids)
            if row.params.repetition_penalty != 1:
                counts.update(dict.fromkeys(row.prompt_ids, 0))
            entries += [(place, token_id, count) for token_id, count in counts.items()]
        if not entries and pending_R is None:
            return
        penalties: list[float] = []
        for p in (row.params for row in rows):
            penalties += (p.repetition_penalty, p.presence_penalty, p.frequency_penalty)
        device = logits_RV.device
        self._ops.penalise_tokens(
            logits_RV,
            *count_tokens(entries, pending_R, device),
            send_to_device(penalties, device, torch.float32).view(-1, 3),
        )
