"""Logit bias: logit += bias of its token. Source: OpenAI's `logit_bias`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

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
        where = (torch.tensor(places, device=device), torch.tensor(ids, device=device))
        logits_RV[where] += torch.tensor(biases, device=device)
