"""Greedy: the most probable token, the lowest id of equal ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmplug import SamplerRow


class Greedy:
    """One pass over the logits, nothing else."""

    def choose(self, logits_RV: torch.Tensor, rows: Sequence[SamplerRow]) -> torch.Tensor:
        """Return ids_R, int64; a row that holds a NaN gives the place of the NaN."""
        if logits_RV.is_cpu:  # NumPy's is vectorised: 0.4 ms for 32 rows of 49,152, torch's 3.5 ms
            return torch.from_numpy(logits_RV.numpy().argmax(axis=-1))
        return logits_RV.argmax(dim=-1)
