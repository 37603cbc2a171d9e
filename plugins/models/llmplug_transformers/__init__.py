"""Any causal language model that transformers knows, run by transformers' own code.

A fallback: taken where no plugin claims the architecture. The layers are transformers', their
attention is ours, over the engine's pages. It is the slower road: nothing is fused, weights are
kept as the number format says, and neighbours in a batch may change how a result is rounded.

`claims.py` finds out whether transformers knows an architecture, `outline.py` what it needs of the
engine, `paged_attention.py` stands where its attention was, `model.py` drives it and compares it at
the start with what transformers computes without us.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmplug import BuildContext, ModelShape, ModelSpec, Weight, hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmplug import Model


def _claims(config: Mapping[str, Any]) -> bool:
    from llmplug_transformers.claims import is_known

    return is_known(config)


def _describe(config: Mapping[str, Any]) -> ModelShape:
    from llmplug_transformers.outline import describe

    return describe(config)


def _weights(config: Mapping[str, Any]) -> Sequence[Weight]:
    from llmplug_transformers.outline import weight_table

    return weight_table(config)


def _build(context: BuildContext) -> Model:
    from llmplug_transformers.model import build

    return build(context)


# What old files carry and the code computes anew.
_DERIVED = (
    "model.layers.{layer}.self_attn.rotary_emb.inv_freq",
    "transformer.h.{layer}.attn.bias",
    "transformer.h.{layer}.attn.masked_bias",
    "gpt_neox.layers.{layer}.attention.bias",
    "gpt_neox.layers.{layer}.attention.masked_bias",
    "gpt_neox.layers.{layer}.attention.rotary_emb.inv_freq",
)


@hookimpl
def llmplug_models() -> list[ModelSpec]:
    """Offer what transformers offers, where nobody else does."""
    return [
        ModelSpec(
            name="transformers",
            architectures=(),
            claims=_claims,
            describe=_describe,
            weights=_weights,
            build=_build,
            ignored=_DERIVED,
        )
    ]
