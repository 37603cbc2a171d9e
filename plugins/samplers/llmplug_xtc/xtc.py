"""XTC: where chance says so, forbid all tokens of P >= threshold but the least likely of these.

Chance is a coin thrown for (seed, position), apart from the draw of the token itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmplug import SamplerRow
    from llmplug.ops import KernelTable

# The coin's seed is another one than the token's: fractional bits of the square root of 3.
_COIN = 0xBB67AE8584CAA73B - 2**64


class Xtc:
    """All rows at once."""

    def __init__(self, ops: KernelTable) -> None:
        self._ops = ops

    def apply(self, logits_RV: torch.Tensor, rows: Sequence[SamplerRow]) -> None:
        """Forbid the likeliest tokens of the rows whose coin says so."""
        device = logits_RV.device
        thresholds_R1 = torch.tensor([row.params.xtc_threshold for row in rows], device=device)[
            :, None
        ]
        is_choice_RV = logits_RV.softmax(dim=-1) >= thresholds_R1
        least_R1 = logits_RV.masked_fill(~is_choice_RV, float("inf")).amin(dim=-1, keepdim=True)
        # Of equally unlikely ones the lowest id stays.
        kept_R1 = ((logits_RV == least_R1) & is_choice_RV).to(torch.uint8).argmax(1, keepdim=True)
        is_out_RV = is_choice_RV & self._throw_coins(rows, device)[:, None]
        is_out_RV.scatter_(1, kept_R1, value=False)
        logits_RV.masked_fill_(is_out_RV, float("-inf"))

    def _throw_coins(self, rows: Sequence[SamplerRow], device: torch.device) -> torch.Tensor:
        """Return a bool per row, true with its probability."""
        heads_R = torch.tensor([row.params.xtc_probability for row in rows], device=device)
        seeds = [row.seed ^ _COIN for row in rows]
        sides_R: torch.Tensor = self._ops.choose_tokens(
            torch.stack((1 - heads_R, heads_R), dim=1).log(),
            torch.ones(len(rows), device=device),
            torch.tensor(seeds, device=device),
            torch.tensor([row.position for row in rows], device=device),
        )
        return sides_R == 1
