"""Logit bias: logit += bias of its token. Source: OpenAI's `logit_bias`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmplug.ops import send_to_device

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from llmplug import SamplerRow


class LogitBias:
    """Adds what the request says to the logits of the tokens that it names."""

    def apply(self, logits_RV: torch.Tensor, rows: Sequence[SamplerRow]) -> None:
        """Add each row's biases."""
        places: list[int] = []
        ids: list[int] = []
        biases: list[float] = []
        for place, row in enumerate(rows):
            bias = row.params.logit_bias
            places += [place] * len(bias)
            ids += bias.keys()
            biases += bias.values()
        device = logits_RV.device
        where = (send_to_device(places, device), send_to_device(ids, device))
        logits_RV[where] += send_to_device(biases, device)
