"""The hooks. `llmplug_settings` returns a pydantic model, the others a list of frozen specs.

A plugin is a module (or any object) named by an entry point of the group `llmplug`; it implements
the hooks it needs with `@llmplug.hookimpl`. Hooks run once, at start, in every process; none is
called while requests run. An implementation leaves out `settings` if it has no use for them.
"""

# ruff: noqa: TC001 - plugins.py reads these types at run time, from the hooks' signatures
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

from llmplug.specs import (
    ChatTemplateSpec,
    GrammarSpec,
    KernelSpec,
    LoaderSpec,
    ModelSpec,
    ReasoningParserSpec,
    SamplerSpec,
    SourceSpec,
    ToolParserSpec,
)

if TYPE_CHECKING:
    from pydantic import BaseModel

PROJECT = "llmplug"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def llmplug_settings() -> type[BaseModel]:  # type: ignore[empty-body]
    """Say what a config may hold under `plugins.settings`: asked first, each field has a default.

    The other hooks may take an instance, `settings`: what the config says, else the defaults.
    """


@hookspec
def llmplug_sources(settings: Any) -> list[SourceSpec]:  # type: ignore[empty-body]
    """Offer places that model files come from; asked when a config names `scheme:...`."""


@hookspec
def llmplug_model_loaders(settings: Any) -> list[LoaderSpec]:  # type: ignore[empty-body]
    """Offer checkpoint formats; asked once the files are on the disk."""


@hookspec
def llmplug_models(settings: Any) -> list[ModelSpec]:  # type: ignore[empty-body]
    """Offer architectures; asked once a checkpoint's config is read."""


@hookspec
def llmplug_kernels(settings: Any) -> list[KernelSpec]:  # type: ignore[empty-body]
    """Offer faster twins of ops; asked before the weights are packed."""


@hookspec
def llmplug_samplers(settings: Any) -> list[SamplerSpec]:  # type: ignore[empty-body]
    """Offer samplers; all are at hand in every engine, each runs on the rows that ask for it."""


@hookspec
def llmplug_chat_templates(settings: Any) -> list[ChatTemplateSpec]:  # type: ignore[empty-body]
    """Offer chat templates by name; asked when a checkpoint has none or the config names one."""


@hookspec
def llmplug_tool_parsers(settings: Any) -> list[ToolParserSpec]:  # type: ignore[empty-body]
    """Offer ways of writing tool calls; asked once the chat template is known."""


@hookspec
def llmplug_reasoning_parsers(settings: Any) -> list[ReasoningParserSpec]:  # type: ignore[empty-body]
    """Offer ways of writing thinking; asked together with the tool parsers."""


@hookspec
def llmplug_grammars(settings: Any) -> list[GrammarSpec]:  # type: ignore[empty-body]
    """Offer backends of structured output; asked when a model's vocabulary is known."""
