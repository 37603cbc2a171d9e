"""Top-k: only the k most probable tokens stay, the lowest id of equal ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from llmplug_standard.truncate import keep_highest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmplug import SamplerRow


class TopK:
    """Selects without sorting the vocabulary."""

    def apply(self, logits_RV: torch.Tensor, rows: Sequence[SamplerRow]) -> None:
        """Forbid what is not among each row's k highest."""
        counts = [min(row.params.top_k, logits_RV.shape[-1]) for row in rows]
        counts_R = torch.tensor(counts, device=logits_RV.device)
        highest_RC = logits_RV.topk(max(counts)).values
        thresholds_R = highest_RC.gather(1, counts_R[:, None] - 1)[:, 0]
        keep_highest(logits_RV, thresholds_R, counts_R)
