"""XTC, "exclude top choices": now and then, the likeliest tokens are left out.

Source: https://github.com/oobabooga/text-generation-webui/pull/6335
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from llmplug import SamplerSpec, hookimpl

if TYPE_CHECKING:
    import torch

    from llmplug.ops import KernelTable


class XtcParams(BaseModel):
    """With this probability, of all tokens above the threshold only the least likely stays."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    temperature: float = 1.0
    xtc_probability: float = Field(0.0, ge=0, le=1)
    xtc_threshold: float = Field(0.1, ge=0, le=1)


def _is_active(params: Any) -> bool:
    # Above one half no two tokens can be over the threshold.
    return bool(
        params.temperature > 0 and params.xtc_probability > 0 and params.xtc_threshold <= 0.5
    )


def _make(vocab_size: int, device: torch.device, ops: KernelTable) -> Any:
    from llmplug_xtc.xtc import Xtc

    return Xtc(ops)


@hookimpl
def llmplug_samplers() -> list[SamplerSpec]:
    """Offer it, after the filters that cut the tail off."""
    return [
        SamplerSpec(
            name="xtc",
            stage="filter",
            params=XtcParams,
            is_active=_is_active,
            make=_make,
            order=40,
            reads_history=False,
        )
    ]
