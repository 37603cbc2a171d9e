"""A sampler that steers answers by phrases: towards those of positive weight, away from the others.

A request says which: `{"example_phrases": {"in other words": 4.0, "as an AI": -30.0}}`.
`phrases.py` does it; this file describes it, and imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from llmplug import SamplerSpec, hookimpl
from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from llmplug.grammar import Vocabulary
    from llmplug.ops import KernelTable

    from example_phrases.phrases import PhraseSteering

Phrase = Annotated[str, Field(min_length=1, max_length=200)]
Weight = Annotated[float, Field(ge=-1000, le=1000)]


class Params(BaseModel):
    """Fields of a request; each has a default that changes nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    # Phrase -> what is added to the logit of the token that completes it; one that gets half of
    # it said gets half of that.
    example_phrases: Annotated[dict[Phrase, Weight], Field(max_length=16)] = {}


def _is_active(params: Any) -> bool:
    return any(params.example_phrases.values())


def _make(
    vocab_size: int,
    device: torch.device,
    ops: KernelTable,
    read_vocabulary: Callable[[], Vocabulary],
) -> PhraseSteering:
    from example_phrases.phrases import PhraseSteering

    return PhraseSteering(read_vocabulary)


@hookimpl
def llmplug_samplers() -> list[SamplerSpec]:
    """Offer it, among those that add to logits."""
    return [
        SamplerSpec(
            name="example_phrases",
            stage="bias",
            params=Params,
            is_active=_is_active,
            make=_make,
            reads_vocabulary=True,
        )
    ]
