"""Top-k, then top-p, then min-p, of all rows that ask for any of them, in one op."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmplug.ops import send_to_device

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from llmplug import SamplerRow
    from llmplug.ops import KernelTable


class FilterTokens:
    """The op `filter_tokens`."""

    def __init__(self, ops: KernelTable) -> None:
        self._ops = ops

    def apply(self, logits_RV: torch.Tensor, rows: Sequence[SamplerRow]) -> None:
        """Forbid what is not among each row's likeliest."""
        size, device = logits_RV.shape[1], logits_RV.device
        self._ops.filter_tokens(
            logits_RV,
            send_to_device([min(row.params.top_k, size) for row in rows], device),
            send_to_device([row.params.top_p for row in rows], device),
            send_to_device([row.params.min_p for row in rows], device),
        )
