"""Greedy: the most probable token, the lowest id of equal ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from llmplug import SamplerRow


class Greedy:
    """One pass over the logits, nothing else."""

    def choose(self, logits_RV: torch.Tensor, rows: Sequence[SamplerRow]) -> torch.Tensor:
        """Return ids_R, int64; a row that holds a NaN gives the place of the NaN."""
        return logits_RV.argmax(dim=-1)
