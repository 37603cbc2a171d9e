"""Temperature: logits / temperature."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmplug.ops import send_to_device

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from llmplug import SamplerRow


class Temperature:
    """Above 1 flattens the distribution, below 1 sharpens it."""

    def apply(self, logits_RV: torch.Tensor, rows: Sequence[SamplerRow]) -> None:
        """Divide each row by its temperature."""
        temperatures = [row.params.temperature for row in rows]
        logits_RV.div_(send_to_device(temperatures, logits_RV.device)[:, None])
