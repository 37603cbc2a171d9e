"""The Qwen2 architecture (Qwen 2 and 2.5): biases on q, k and v; some layers may be windowed.

`weights.py` reads the config and lists the tensors; `model.py` is the forward pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmplug import BuildContext, ModelShape, ModelSpec, Weight, hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmplug import Model


def _describe(config: Mapping[str, Any]) -> ModelShape:
    from llmplug_qwen2.weights import describe

    return describe(config)


def _weights(config: Mapping[str, Any]) -> Sequence[Weight]:
    from llmplug_qwen2.weights import weight_table

    return weight_table(config)


def _build(context: BuildContext) -> Model:
    from llmplug_qwen2.model import Qwen2Model

    return Qwen2Model(context)


@hookimpl
def llmplug_models() -> list[ModelSpec]:
    """Offer Qwen2ForCausalLM."""
    return [
        ModelSpec(
            name="qwen2",
            architectures=("Qwen2ForCausalLM",),
            describe=_describe,
            weights=_weights,
            build=_build,
        )
    ]
