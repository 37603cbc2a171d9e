"""ModernBERT: an encoder for long texts, for embeddings, rerankers and classifiers.

`settings.py` reads the config and lists the tensors, `model.py` is the forward pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmplug import BuildContext, ModelShape, ModelSpec, PoolingKind, Weight, hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmplug_modernbert.model import ModernBertEncoder


def _describe(config: Mapping[str, Any]) -> ModelShape:
    from llmplug_modernbert.settings import describe

    return describe(config)


def _weights(config: Mapping[str, Any]) -> Sequence[Weight]:
    from llmplug_modernbert.settings import weight_table

    return weight_table(config)


def _pooling(config: Mapping[str, Any]) -> PoolingKind:
    from llmplug_modernbert.settings import read_settings

    return read_settings(config).classifier_pooling


def _build(context: BuildContext) -> ModernBertEncoder:
    from llmplug_modernbert.model import ModernBertClassifier, ModernBertEncoder
    from llmplug_modernbert.settings import read_settings

    settings = read_settings(context.config)
    kind = ModernBertClassifier if settings.is_classifier else ModernBertEncoder
    return kind(context, settings)


@hookimpl
def llmplug_models() -> list[ModelSpec]:
    """Offer ModernBertModel, and its sequence classifiers."""
    return [
        ModelSpec(
            name="modernbert",
            architectures=("ModernBertModel",),
            describe=_describe,
            weights=_weights,
            build=_build,
            task="embed",
        ),
        ModelSpec(
            name="modernbert-classifier",
            architectures=("ModernBertForSequenceClassification",),
            describe=_describe,
            weights=_weights,
            build=_build,
            task="classify",
            classifier_pooling=_pooling,
        ),
    ]
