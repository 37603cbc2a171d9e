"""An architecture: OLMoE, a mixture of experts, out of the ops of `llmplug.ops`.

`weights.py` reads the config and lists the tensors, without torch; `model.py` is the forward pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmplug import BuildContext, ModelShape, ModelSpec, Weight, hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmplug import Model


def _describe(config: Mapping[str, Any]) -> ModelShape:
    from example_olmoe.weights import describe

    return describe(config)


def _weights(config: Mapping[str, Any]) -> Sequence[Weight]:
    from example_olmoe.weights import weight_table

    return weight_table(config)


def _build(context: BuildContext) -> Model:
    from example_olmoe.model import OlmoeModel

    return OlmoeModel(context)


@hookimpl
def llmplug_models() -> list[ModelSpec]:
    """Offer what config.json calls OlmoeForCausalLM."""
    return [
        ModelSpec(
            name="example_olmoe",
            architectures=("OlmoeForCausalLM",),
            describe=_describe,
            weights=_weights,
            build=_build,
        )
    ]
