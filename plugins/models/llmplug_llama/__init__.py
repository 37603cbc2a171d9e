"""The Llama architecture: Llama 2, 3, 3.1 and later, and the many models built alike.

`weights.py` reads the config and lists the tensors; `model.py` is the forward pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from llmplug import BuildContext, ModelShape, ModelSpec, Weight, hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmplug import Model


def _describe(config: Mapping[str, Any]) -> ModelShape:
    from llmplug_llama.weights import describe

    return describe(config)


def _weights(config: Mapping[str, Any]) -> Sequence[Weight]:
    from llmplug_llama.weights import weight_table

    return weight_table(config)


def _build(context: BuildContext) -> Model:
    from llmplug_llama.model import LlamaModel

    return LlamaModel(context)


def _spec(name: str, architecture: str, task: Literal["generate", "classify"]) -> ModelSpec:
    return ModelSpec(
        name=name,
        architectures=(architecture,),
        describe=_describe,
        weights=_weights,
        build=_build,
        # Angles of the positions; old checkpoints carry them, and they follow from the config.
        ignored=("model.layers.{layer}.self_attn.rotary_emb.inv_freq",),
        task=task,
    )


@hookimpl
def llmplug_models() -> list[ModelSpec]:
    """Offer LlamaForCausalLM, and classifiers by the last token."""
    return [
        _spec("llama", "LlamaForCausalLM", "generate"),
        _spec("llama-classifier", "LlamaForSequenceClassification", "classify"),
    ]
