"""Dynamic temperature: t = low + (high - low) * (entropy / highest entropy) ^ exponent.

Low and high are `temperature` less and more `dynatemp_range`, low at least 0; the highest entropy
is that of as many equally likely tokens as are allowed. The sampler of the temperature comes next
and divides by `temperature`; so this one multiplies by `temperature / t`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmplug import SamplerRow

_LOWEST = 1e-5  # below this, logits divided by the temperature leave float32


class DynamicTemperature:
    """All rows at once."""

    def apply(self, logits_RV: torch.Tensor, rows: Sequence[SamplerRow]) -> None:
        """Bring each row to its own temperature, but for the factor that comes next."""
        device = logits_RV.device
        settings_R3 = torch.tensor(
            [
                (row.params.temperature, row.params.dynatemp_range, row.params.dynatemp_exponent)
                for row in rows
            ],
            dtype=torch.float64,
            device=device,
        )
        middle_R, range_R, exponent_R = settings_R3.unbind(1)
        low_R, high_R = (middle_R - range_R).clamp(min=0), middle_R + range_R
        heat_R = low_R + (high_R - low_R) * _measure_doubt(logits_RV) ** exponent_R
        factor_R = middle_R / heat_R.clamp(min=_LOWEST)
        # A single token has no doubt, and stays as it is.
        is_single_R = (logits_RV > float("-inf")).sum(dim=-1) < 2
        factor_R = torch.where(is_single_R, 1.0, factor_R)
        # The highest becomes 0, so that no product leaves float32.
        logits_RV.sub_(logits_RV.amax(dim=-1, keepdim=True)).mul_(factor_R.float()[:, None])


def _measure_doubt(logits_RV: torch.Tensor) -> torch.Tensor:
    """Return the entropy of each row, as a share of the highest that it could have."""
    logprobs_RV = logits_RV.log_softmax(dim=-1, dtype=torch.float64)
    probs_RV = logprobs_RV.exp()
    entropy_R = -torch.where(probs_RV > 0, probs_RV * logprobs_RV, 0.0).sum(dim=-1)
    num_allowed_R = (logits_RV > float("-inf")).sum(dim=-1)
    return (entropy_R / num_allowed_R.clamp(min=2).double().log()).clamp(0, 1)
