"""DRY, "don't repeat yourself": whatever would prolong a repetition is the less likely the longer.

Source: https://github.com/oobabooga/text-generation-webui/pull/5637
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from llmplug import SamplerSpec, hookimpl

if TYPE_CHECKING:
    import torch

    from llmplug.grammar import Vocabulary
    from llmplug.ops import KernelTable


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class DryParams(BaseModel):
    """The penalty is multiplier * base ^ (length of what repeats - allowed length); 0 is off."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    dry_multiplier: float = Field(0.0, ge=0, le=1000)
    dry_base: float = Field(1.75, ge=1, le=16)
    dry_allowed_length: int = Field(2, ge=1, le=1_000_000)
    # A token whose text holds one of these is not part of a repetition.
    dry_sequence_breakers: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=64)], ...],
        BeforeValidator(_as_tuple),
        Field(max_length=64),
    ] = ("\n", ":", '"', "*")
    dry_penalty_last_n: int = Field(-1, ge=-1)  # tokens that are looked back; -1: all


def _make(
    vocab_size: int,
    device: torch.device,
    ops: KernelTable,
    read_vocabulary: Callable[[], Vocabulary],
) -> Any:
    from llmplug_dry.dry import Dry

    return Dry(read_vocabulary)


@hookimpl
def llmplug_samplers() -> list[SamplerSpec]:
    """Offer it, after the penalties of single tokens."""
    return [
        SamplerSpec(
            name="dry",
            stage="bias",
            params=DryParams,
            is_active=lambda params: params.dry_multiplier > 0 and params.dry_penalty_last_n != 0,
            make=_make,
            order=40,
            reads_vocabulary=True,
        )
    ]
