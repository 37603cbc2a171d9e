"""llmplug: serve language models over the OpenAI API, every model part a plugin.

The names below are public, and so are the modules `llmplug.ops`, `llmplug.dialect`,
`llmplug.grammar` and `llmplug.json_schema`. They are loaded when first used, so that
`import llmplug` costs a plugin nothing and `llmplug --help` never loads torch.
"""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "llmplug.hookspecs": ("hookimpl",),
    "llmplug.llm": ("LLM", "Completion"),
    "llmplug.types": (
        "BeamParams",
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
        "GrammarError",
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
    "llmplug.pooling": ("Classifier", "Encoder", "Pooling", "PoolingKind"),
    "llmplug.specs": (
        "BuildContext",
        "ChatTemplateSpec",
        "Checkpoint",
        "ChoosingSampler",
        "GrammarSpec",
        "KernelSpec",
        "KeptWeight",
        "LayerCache",
        "LazyTensor",
        "LoaderSpec",
        "LogitsSampler",
        "Model",
        "ModelShape",
        "ModelSpec",
        "Progress",
        "ReasoningParserSpec",
        "SamplerRow",
        "SamplerSpec",
        "SourceSpec",
        "TokenizerFiles",
        "ToolParserSpec",
        "Weight",
    ),
    "llmplug.stored_weights": ("Fp8Tensor", "IntCodes", "PackedIntTensor"),
    "llmplug.tensor_slices": ("SliceableTensor",),
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}
# Old name -> (the name that replaces it, the version that no longer has the old one).
_RENAMED: dict[str, tuple[str, str]] = {}

__all__ = ["__version__", *_HOME]  # noqa: PLE0604 - names are resolved by __getattr__


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        name = _warn_of_old_name(name)
    try:
        module = importlib.import_module(_HOME[name])
    except KeyError:
        raise AttributeError(f"module 'llmplug' has no attribute {name!r}") from None
    return getattr(module, name)


def _warn_of_old_name(old: str) -> str:
    new, gone_in = _RENAMED[old]
    words = f"llmplug.{old} is now llmplug.{new}; llmplug {gone_in} will not have the old name"
    warnings.warn(words, DeprecationWarning, stacklevel=3)
    return new


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from llmplug.errors import (
        CheckpointError as CheckpointError,
    )
    from llmplug.errors import (
        ConfigError as ConfigError,
    )
    from llmplug.errors import (
        ContextLengthExceeded as ContextLengthExceeded,
    )
    from llmplug.errors import (
        EngineError as EngineError,
    )
    from llmplug.errors import (
        EngineUnavailable as EngineUnavailable,
    )
    from llmplug.errors import (
        GrammarError as GrammarError,
    )
    from llmplug.errors import (
        InvalidRequest as InvalidRequest,
    )
    from llmplug.errors import (
        KernelInputError as KernelInputError,
    )
    from llmplug.errors import (
        LlmplugError as LlmplugError,
    )
    from llmplug.errors import (
        ModelNotFound as ModelNotFound,
    )
    from llmplug.errors import (
        Overloaded as Overloaded,
    )
    from llmplug.errors import (
        PluginError as PluginError,
    )
    from llmplug.errors import (
        SourceError as SourceError,
    )
    from llmplug.errors import (
        TemplateError as TemplateError,
    )
    from llmplug.errors import (
        UnsupportedParameter as UnsupportedParameter,
    )
    from llmplug.hookspecs import (
        hookimpl as hookimpl,
    )
    from llmplug.llm import (
        LLM as LLM,
    )
    from llmplug.llm import (
        Completion as Completion,
    )
    from llmplug.model_config import (
        ConfigReader as ConfigReader,
    )
    from llmplug.model_config import (
        RopeSettings as RopeSettings,
    )
    from llmplug.pooling import (
        Classifier as Classifier,
    )
    from llmplug.pooling import (
        Encoder as Encoder,
    )
    from llmplug.pooling import (
        Pooling as Pooling,
    )
    from llmplug.pooling import (
        PoolingKind as PoolingKind,
    )
    from llmplug.specs import (
        BuildContext as BuildContext,
    )
    from llmplug.specs import (
        ChatTemplateSpec as ChatTemplateSpec,
    )
    from llmplug.specs import (
        Checkpoint as Checkpoint,
    )
    from llmplug.specs import (
        ChoosingSampler as ChoosingSampler,
    )
    from llmplug.specs import (
        GrammarSpec as GrammarSpec,
    )
    from llmplug.specs import (
        KeptWeight as KeptWeight,
    )
    from llmplug.specs import (
        KernelSpec as KernelSpec,
    )
    from llmplug.specs import (
        LayerCache as LayerCache,
    )
    from llmplug.specs import (
        LazyTensor as LazyTensor,
    )
    from llmplug.specs import (
        LoaderSpec as LoaderSpec,
    )
    from llmplug.specs import (
        LogitsSampler as LogitsSampler,
    )
    from llmplug.specs import (
        Model as Model,
    )
    from llmplug.specs import (
        ModelShape as ModelShape,
    )
    from llmplug.specs import (
        ModelSpec as ModelSpec,
    )
    from llmplug.specs import (
        Progress as Progress,
    )
    from llmplug.specs import (
        ReasoningParserSpec as ReasoningParserSpec,
    )
    from llmplug.specs import (
        SamplerRow as SamplerRow,
    )
    from llmplug.specs import (
        SamplerSpec as SamplerSpec,
    )
    from llmplug.specs import (
        SourceSpec as SourceSpec,
    )
    from llmplug.specs import (
        TokenizerFiles as TokenizerFiles,
    )
    from llmplug.specs import (
        ToolParserSpec as ToolParserSpec,
    )
    from llmplug.specs import (
        Weight as Weight,
    )
    from llmplug.stored_weights import (
        Fp8Tensor as Fp8Tensor,
    )
    from llmplug.stored_weights import (
        IntCodes as IntCodes,
    )
    from llmplug.stored_weights import (
        PackedIntTensor as PackedIntTensor,
    )
    from llmplug.tensor_slices import (
        SliceableTensor as SliceableTensor,
    )
    from llmplug.types import (
        BeamParams as BeamParams,
    )
    from llmplug.types import (
        FinishReason as FinishReason,
    )
    from llmplug.types import (
        GenerateRequest as GenerateRequest,
    )
    from llmplug.types import (
        SamplingParams as SamplingParams,
    )
    from llmplug.types import (
        SequenceDelta as SequenceDelta,
    )
    from llmplug.types import (
        TokenLogprob as TokenLogprob,
    )
