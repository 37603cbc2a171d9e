"""The Qwen3 architecture, dense: a norm on each query and key head; some layers may be windowed.

`weights.py` reads the config and lists the tensors; `model.py` is the forward pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmplug import BuildContext, ModelShape, ModelSpec, Weight, hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmplug import Model


def _describe(config: Mapping[str, Any]) -> ModelShape:
    from llmplug_qwen3.weights import describe

    return describe(config)


def _weights(config: Mapping[str, Any]) -> Sequence[Weight]:
    from llmplug_qwen3.weights import weight_table

    return weight_table(config)


def _build(context: BuildContext) -> Model:
    from llmplug_qwen3.model import Qwen3Model

    return Qwen3Model(context)


@hookimpl
def llmplug_models() -> list[ModelSpec]:
    """Offer Qwen3ForCausalLM, and classifiers by the last token."""
    return [
        ModelSpec(
            name="qwen3",
            architectures=("Qwen3ForCausalLM",),
            describe=_describe,
            weights=_weights,
            build=_build,
        ),
        ModelSpec(
            name="qwen3-classifier",
            architectures=("Qwen3ForSequenceClassification",),
            describe=_describe,
            weights=_weights,
            build=_build,
            task="classify",
        ),
    ]
