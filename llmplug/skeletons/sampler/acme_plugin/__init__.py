"""A sampler that makes the likeliest token less likely, so that answers wander a little."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from llmplug import SamplerSpec, hookimpl

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from llmplug import SamplerRow
    from llmplug.ops import KernelTable


class Params(BaseModel):
    """Fields of a request; each has a default that changes nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    acme_plugin_strength: float = Field(0.0, ge=0, le=100)


class Wander:
    """All rows at once; a result may not depend on the other rows."""

    def apply(self, logits_RV: torch.Tensor, rows: Sequence[SamplerRow]) -> None:
        """Lower each row's largest logit; edits in place, and leaves -inf as it is."""
        strengths = [[-row.params.acme_plugin_strength] for row in rows]
        best_R1 = logits_RV.argmax(dim=-1, keepdim=True)
        logits_RV.scatter_add_(1, best_R1, logits_RV.new_tensor(strengths))


def _is_active(params: Any) -> bool:
    return bool(params.acme_plugin_strength > 0)


def _make(vocab_size: int, device: torch.device, ops: KernelTable) -> Wander:
    return Wander()


@hookimpl
def llmplug_samplers() -> list[SamplerSpec]:
    """Offer it, among those that add to logits."""
    return [
        SamplerSpec(
            name="acme_plugin",
            stage="bias",
            params=Params,
            is_active=_is_active,
            make=_make,
            reads_history=False,  # it looks at no token that was chosen before
        )
    ]
