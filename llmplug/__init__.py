"""llmplug: serve language models over the OpenAI API, every model part a plugin.

The names below are public. They are loaded when first used, so that `import llmplug` costs a
plugin nothing and `llmplug --help` never loads torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "llmplug.hookspecs": ("hookimpl",),
    "llmplug.llm": ("LLM", "Completion"),
    "llmplug.types": (
        "FinishReason",
        "GenerateRequest",
        "SamplingParams",
        "SequenceDelta",
        "TokenLogprob",
    ),
    "llmplug.errors": (
        "CheckpointError",
        "ConfigError",
        "ContextLengthExceeded",
        "EngineError",
        "EngineUnavailable",
        "InvalidRequest",
        "KernelInputError",
        "LlmplugError",
        "ModelNotFound",
        "Overloaded",
        "PluginError",
        "SourceError",
        "TemplateError",
        "UnsupportedParameter",
    ),
    "llmplug.model_config": ("ConfigReader", "RopeSettings"),
    "llmplug.specs": (
        "BuildContext",
        "ChatTemplateSpec",
        "Checkpoint",
        "ChoosingSampler",
        "KernelSpec",
        "LayerCache",
        "LazyTensor",
        "LoaderSpec",
        "LogitsSampler",
        "Model",
        "ModelShape",
        "ModelSpec",
        "Progress",
        "SamplerRow",
        "SamplerSpec",
        "SourceSpec",
        "TokenizerFiles",
        "Weight",
    ),
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = ["__version__", *_HOME]  # noqa: PLE0604 - names are resolved by __getattr__


def __getattr__(name: str) -> Any:
    try:
        module = importlib.import_module(_HOME[name])
    except KeyError:
        raise AttributeError(f"module 'llmplug' has no attribute {name!r}") from None
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from llmplug.errors import (
        CheckpointError as CheckpointError,
        ConfigError as ConfigError,
        ContextLengthExceeded as ContextLengthExceeded,
        EngineError as EngineError,
        EngineUnavailable as EngineUnavailable,
        InvalidRequest as InvalidRequest,
        KernelInputError as KernelInputError,
        LlmplugError as LlmplugError,
        ModelNotFound as ModelNotFound,
        Overloaded as Overloaded,
        PluginError as PluginError,
        SourceError as SourceError,
        TemplateError as TemplateError,
        UnsupportedParameter as UnsupportedParameter,
    )
    from llmplug.hookspecs import (
        hookimpl as hookimpl,
    )
    from llmplug.llm import (
        Completion as Completion,
        LLM as LLM,
    )
    from llmplug.model_config import (
        ConfigReader as ConfigReader,
        RopeSettings as RopeSettings,
    )
    from llmplug.specs import (
        BuildContext as BuildContext,
        ChatTemplateSpec as ChatTemplateSpec,
        Checkpoint as Checkpoint,
        ChoosingSampler as ChoosingSampler,
        KernelSpec as KernelSpec,
        LayerCache as LayerCache,
        LazyTensor as LazyTensor,
        LoaderSpec as LoaderSpec,
        LogitsSampler as LogitsSampler,
        Model as Model,
        ModelShape as ModelShape,
        ModelSpec as ModelSpec,
        Progress as Progress,
        SamplerRow as SamplerRow,
        SamplerSpec as SamplerSpec,
        SourceSpec as SourceSpec,
        TokenizerFiles as TokenizerFiles,
        Weight as Weight,
    )
    from llmplug.types import (
        FinishReason as FinishReason,
        GenerateRequest as GenerateRequest,
        SamplingParams as SamplingParams,
        SequenceDelta as SequenceDelta,
        TokenLogprob as TokenLogprob,
    )
