"""Categorical: one token by its probability, on any device; `categorical_cpu` is its fast twin.

The noise is that of `llmplug.ops.choose_tokens`, a function of (seed, position, token id): a row
draws the same alone, in any batch, on any device and after a restart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmplug.ops import send_to_device

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from llmplug import SamplerRow
    from llmplug.ops import KernelTable


class Categorical:
    """The op, at temperature 1."""

    def __init__(self, ops: KernelTable) -> None:
        self._ops = ops

    def choose(self, logits_RV: torch.Tensor, rows: Sequence[SamplerRow]) -> torch.Tensor:
        """Return ids_R, int64; a row that holds a NaN gives the place of the NaN."""
        return draw_tokens(self._ops, logits_RV, [1.0] * len(rows), rows)


def draw_tokens(
    ops: KernelTable,
    logits_RV: torch.Tensor,
    temperatures: Sequence[float],
    rows: Sequence[SamplerRow],
) -> torch.Tensor:
    """Return ids_R of rows at their temperatures; 0 is greedy."""
    device = logits_RV.device
    ids_R: torch.Tensor = ops.choose_tokens(
        logits_RV,
        send_to_device(temperatures, device),
        send_to_device([row.seed for row in rows], device),
        send_to_device([row.position for row in rows], device),
    )
    return ids_R
