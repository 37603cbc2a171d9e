"""Locally typical sampling: the tokens whose surprise is nearest to what is to be expected.

Source: https://arxiv.org/abs/2202.00666
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from llmplug import SamplerSpec, hookimpl

if TYPE_CHECKING:
    import torch

    from llmplug.ops import KernelTable


class TypicalPParams(BaseModel):
    """Keeps the fewest of the most typical tokens that hold this share of probability; 1 is off."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    temperature: float = 1.0
    typical_p: float = Field(1.0, gt=0, le=1)


def _make(vocab_size: int, device: torch.device, ops: KernelTable) -> Any:
    from llmplug_typical_p.typical_p import TypicalP

    return TypicalP()


@hookimpl
def llmplug_samplers() -> list[SamplerSpec]:
    """Offer it, between top-k and top-p."""
    return [
        SamplerSpec(
            name="typical_p",
            stage="filter",
            params=TypicalPParams,
            is_active=lambda params: params.temperature > 0 and params.typical_p < 1,
            make=_make,
            order=15,
            reads_history=False,
        )
    ]
