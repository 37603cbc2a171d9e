"""Mirostat: holds the surprise of a text near a target, by what its tokens have surprised so far.

Source: https://arxiv.org/abs/2007.14966
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from llmplug import SamplerSpec, hookimpl

if TYPE_CHECKING:
    import torch

    from llmplug.ops import KernelTable


class MirostatParams(BaseModel):
    """Version 1 or 2 (0 is off), the target of surprise in bits, and how fast it is approached."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    temperature: float = 1.0
    mirostat: Literal[0, 1, 2] = 0
    mirostat_tau: float = Field(5.0, ge=0, le=1000)
    mirostat_eta: float = Field(0.1, ge=0, le=1000)


def _make(vocab_size: int, device: torch.device, ops: KernelTable) -> Any:
    from llmplug_mirostat.mirostat import Mirostat

    return Mirostat(vocab_size, ops)


@hookimpl
def llmplug_samplers() -> list[SamplerSpec]:
    """Offer it: it chooses the tokens of the rows that ask for it."""
    return [
        SamplerSpec(
            name="mirostat",
            stage="choose",
            params=MirostatParams,
            is_active=lambda params: params.temperature > 0 and params.mirostat > 0,
            make=_make,
            order=5,
        )
    ]
