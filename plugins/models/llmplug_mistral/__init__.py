"""The Mistral architecture: a Llama whose layers may see a sliding window only.

`weights.py` reads the config and lists the tensors; `model.py` is the forward pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmplug import BuildContext, ModelShape, ModelSpec, Weight, hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmplug import Model


def _describe(config: Mapping[str, Any]) -> ModelShape:
    from llmplug_mistral.weights import describe

    return describe(config)


def _weights(config: Mapping[str, Any]) -> Sequence[Weight]:
    from llmplug_mistral.weights import weight_table

    return weight_table(config)


def _build(context: BuildContext) -> Model:
    from llmplug_mistral.model import MistralModel

    return MistralModel(context)


@hookimpl
def llmplug_models() -> list[ModelSpec]:
    """Offer MistralForCausalLM."""
    return [
        ModelSpec(
            name="mistral",
            architectures=("MistralForCausalLM",),
            describe=_describe,
            weights=_weights,
            build=_build,
        )
    ]
