"""Temperature and choice, greedy or by chance, of all rows in one pass over the logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmplug_standard.categorical import draw_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from llmplug import SamplerRow
    from llmplug.ops import KernelTable


class ChooseTokens:
    """The op `choose_tokens`."""

    def __init__(self, ops: KernelTable) -> None:
        self._ops = ops

    def choose(self, logits_RV: torch.Tensor, rows: Sequence[SamplerRow]) -> torch.Tensor:
        """Return ids_R, int64; a row that holds a NaN gives the place of the NaN."""
        return draw_tokens(self._ops, logits_RV, [row.params.temperature for row in rows], rows)
