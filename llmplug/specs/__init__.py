"""What a plugin hands in: frozen descriptions. The core decides what to do with them.

files     sources and checkpoint formats
models    architectures, their weights and shapes
kernels   faster twins of ops
samplers  what a sampler is, and what it sees
texts     chat templates, dialects, grammars

Nothing here imports torch; a spec's functions may, when they are called.
"""

from llmplug.specs.files import (
    Checkpoint,
    LazyTensor,
    LoaderSpec,
    Progress,
    SourceSpec,
    TokenizerFiles,
)
from llmplug.specs.kernels import KeptWeight, KernelSpec
from llmplug.specs.models import (
    BuildContext,
    LayerCache,
    Model,
    ModelShape,
    ModelSpec,
    Task,
    Weight,
)
from llmplug.specs.samplers import ChoosingSampler, LogitsSampler, SamplerRow, SamplerSpec, Stage
from llmplug.specs.texts import ChatTemplateSpec, GrammarSpec, ReasoningParserSpec, ToolParserSpec

__all__ = [
    "BuildContext",
    "ChatTemplateSpec",
    "Checkpoint",
    "ChoosingSampler",
    "GrammarSpec",
    "KeptWeight",
    "KernelSpec",
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
    "Stage",
    "Task",
    "TokenizerFiles",
    "ToolParserSpec",
    "Weight",
]
