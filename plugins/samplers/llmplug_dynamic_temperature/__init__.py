"""Dynamic temperature: higher where the model is unsure, lower where it is sure.

Source: https://github.com/ggml-org/llama.cpp/pull/4972
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from llmplug import SamplerSpec, hookimpl

if TYPE_CHECKING:
    import torch

    from llmplug.ops import KernelTable


class DynamicTemperatureParams(BaseModel):
    """The temperature lies within this range around `temperature`, by the entropy; 0 is off."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    temperature: float = 1.0
    dynatemp_range: float = Field(0.0, ge=0, le=100)
    dynatemp_exponent: float = Field(1.0, gt=0, le=100)


def _make(vocab_size: int, device: torch.device, ops: KernelTable) -> Any:
    from llmplug_dynamic_temperature.dynamic_temperature import DynamicTemperature

    return DynamicTemperature()


@hookimpl
def llmplug_samplers() -> list[SamplerSpec]:
    """Offer it, right before the temperature that it corrects."""
    return [
        SamplerSpec(
            name="dynatemp",
            stage="scale",
            params=DynamicTemperatureParams,
            is_active=lambda params: params.temperature > 0 and params.dynatemp_range > 0,
            make=_make,
            order=-10,
            reads_history=False,
        )
    ]
