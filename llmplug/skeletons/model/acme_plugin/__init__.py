"""An architecture: Seed-OSS, decoder layers with biases on queries, keys and values.

`weights.py` reads the config and lists the tensors, without torch; `model.py` is the forward pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmplug import BuildContext, ModelShape, ModelSpec, Weight, hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmplug import Model


def _describe(config: Mapping[str, Any]) -> ModelShape:
    from acme_plugin.weights import describe

    return describe(config)


def _weights(config: Mapping[str, Any]) -> Sequence[Weight]:
    from acme_plugin.weights import weight_table

    return weight_table(config)


def _build(context: BuildContext) -> Model:
    from acme_plugin.model import SeedOssModel

    return SeedOssModel(context)


@hookimpl
def llmplug_models() -> list[ModelSpec]:
    """Offer what config.json calls SeedOssForCausalLM."""
    return [
        ModelSpec(
            name="acme_plugin",
            architectures=("SeedOssForCausalLM",),
            describe=_describe,
            weights=_weights,
            build=_build,
        )
    ]
