"""BERT and its kin: encoders for embeddings, rerankers and classifiers.

`settings.py` reads the config and lists the tensors, `model.py` is the forward pass. RoBERTa,
XLM-RoBERTa and CamemBERT differ from BERT in where positions begin and in the head.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from llmplug import BuildContext, ModelShape, ModelSpec, Weight, hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmplug_bert.model import BertEncoder

_BERT = ("Bert",)
_ROBERTA = ("Roberta", "XLMRoberta", "Camembert")


def _describe(config: Mapping[str, Any]) -> ModelShape:
    from llmplug_bert.settings import describe

    return describe(config)


def _weights(config: Mapping[str, Any]) -> Sequence[Weight]:
    from llmplug_bert.settings import weight_table

    return weight_table(config)


def _build(context: BuildContext) -> BertEncoder:
    from llmplug_bert.model import BertClassifier, BertEncoder
    from llmplug_bert.settings import read_settings

    settings = read_settings(context.config)
    return (BertClassifier if settings.is_classifier else BertEncoder)(context, settings)


def _spec(name: str, families: Sequence[str], task: Literal["embed", "classify"]) -> ModelSpec:
    suffix = "Model" if task == "embed" else "ForSequenceClassification"
    prefixes = ("",) if task == "embed" else ("bert.", "roberta.")
    # Positions are counted, and the pooler is the classifiers' own.
    derived = ["embeddings.position_ids", "embeddings.token_type_ids"]
    if task == "embed":
        derived += ["pooler.dense.weight", "pooler.dense.bias"]
    return ModelSpec(
        name=name,
        architectures=tuple(f"{family}{suffix}" for family in families),
        describe=_describe,
        weights=_weights,
        build=_build,
        ignored=tuple(prefix + each for prefix in prefixes for each in derived),
        task=task,
    )


@hookimpl
def llmplug_models() -> list[ModelSpec]:
    """Offer the encoders of both families, and their sequence classifiers."""
    return [
        _spec("bert", _BERT, "embed"),
        _spec("bert-classifier", _BERT, "classify"),
        _spec("roberta", _ROBERTA, "embed"),
        _spec("roberta-classifier", _ROBERTA, "classify"),
    ]
