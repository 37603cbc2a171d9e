"""Top-n-sigma: tokens stay whose logit is within n standard deviations of the highest.

Source: https://arxiv.org/abs/2411.07641
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from llmplug import SamplerSpec, hookimpl

if TYPE_CHECKING:
    import torch

    from llmplug.ops import KernelTable


class TopNSigmaParams(BaseModel):
    """Keeps tokens whose logit is within n standard deviations of the highest; 0 or less is off."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    temperature: float = 1.0
    top_n_sigma: float = Field(-1.0, ge=-1)


def _make(vocab_size: int, device: torch.device, ops: KernelTable) -> Any:
    from llmplug_top_n_sigma.top_n_sigma import TopNSigma

    return TopNSigma()


@hookimpl
def llmplug_samplers() -> list[SamplerSpec]:
    """Offer it, before all other filters: the deviation is of all that the model says."""
    return [
        SamplerSpec(
            name="top_n_sigma",
            stage="filter",
            params=TopNSigmaParams,
            is_active=lambda params: params.temperature > 0 and params.top_n_sigma > 0,
            make=_make,
            order=5,
            reads_history=False,
        )
    ]
