"""Config + registry -> plans, engines and clients: every choice is made here, once.

load_registry    find, load and check the plugins
plan_text        files, architecture, tokenizer, template, what ends an answer: no torch
plan_engine      device, kernels, memory; no weight is read
plan_model       both, where one process does all
build_engine     a plan -> an Engine that holds its weights (engine process, or `LLM`)
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmplug import generation_defaults, grammar_backends, kernel_tuning, plugins, resources
from llmplug.did_you_mean import did_you_mean
from llmplug.engine.settings import EngineSettings
from llmplug.errors import ConfigError, SourceError
from llmplug.plan import (
    Choice,
    EnginePlan,
    ModelFiles,
    ModelPlan,
    SequenceRules,
    TextPlan,
    format_bytes,
)
from llmplug.pooling_choice import choose_pooling, choose_task
from llmplug.registry import Entry, Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llmplug.config import Config, ModelConfig
    from llmplug.engine.engine import Engine
    from llmplug.engine.pooling import PoolingEngine
    from llmplug.grammar import GrammarBackend, Vocabulary
    from llmplug.ops import KernelChoice
    from llmplug.resources import Keep
    from llmplug.specs import BuildContext, Checkpoint, KernelSpec, Model, Progress


def cache_dir() -> Path:
    """Return the folder where downloads are kept: $XDG_CACHE_HOME/llmplug."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "llmplug"


def load_registry(config: Config) -> Registry:
    """Find, load and check the plugins that this configuration allows.

    Raises:
        PluginError: one that the config requires is not ok.
    """
    report = plugins.load_all(block=config.plugins.block)
    return Registry(report, require=config.plugins.require)


# --- planning -----------------------------------------------------------------------------------
def plan_model(config: ModelConfig, registry: Registry, progress: Progress) -> ModelPlan:
    """Make every choice for one model; reads headers, never weights.

    Raises:
        SourceError, CheckpointError, ConfigError, PluginError: each says what to do.
    """
    text = plan_text(config, registry, progress)
    engine = plan_engine(config, text.files, text.rules, registry)
    half: dict[str, Any] = {
        field.name: getattr(engine, field.name) for field in dataclasses.fields(engine)
    }
    return ModelPlan(
        **{**half, "choices": text.choices + engine.choices},
        tokenizer=text.tokenizer,
        renderer=text.renderer,
        dialect=text.dialect,
    )


def plan_text(config: ModelConfig, registry: Registry, progress: Progress) -> TextPlan:
    """Make the choices that need no device; a server never imports torch.

    Raises:
        SourceError, CheckpointError, ConfigError, PluginError: each says what to do.
    """
    from llmplug.chat.tokenizer import Tokenizer

    choices: list[Choice] = []
    path = resolve_source(config.source, registry, progress, choices)
    files = open_files(config, path, registry, choices)
    context = resources.choose_context_length(config, files.shape)
    choices.append(context)
    checkpoint = files.checkpoint
    tokenizer = Tokenizer(checkpoint.tokenizer)
    defaults = generation_defaults.choose_sampling_defaults(config, checkpoint, choices)
    chat = generation_defaults.plan_chat(config, files, tokenizer, registry, choices)
    grammars = grammar_backends.choose_backend(config.grammar_backend, registry)
    choices.append(
        Choice(
            topic="structured output",
            chosen="none" if grammars is None else grammars.name,
            why="installed" if config.grammar_backend == "auto" else "the config says so",
        )
    )
    return TextPlan(
        config=config,
        files=files,
        rules=SequenceRules(
            context_length=int(context.chosen), end_ids=chat.end_ids, sampling_defaults=defaults
        ),
        tokenizer=tokenizer,
        renderer=chat.renderer,
        dialect=chat.dialect,
        choices=tuple(choices),
    )


def plan_engine(
    config: ModelConfig, files: ModelFiles, rules: SequenceRules, registry: Registry
) -> EnginePlan:
    """Make the choices that depend on the device; a server leaves them to the engine process.

    Raises:
        ConfigError, PluginError, KernelInputError: each says what to do.
    """
    from llmplug.ops import REFERENCES, choose_kernels

    choices: list[Choice] = []
    checkpoint, model, shape = files.checkpoint, files.model, files.shape
    device = resources.choose_device(config)
    dtype = resources.choose_dtype(config, device.chosen)
    cache_dtype = resources.choose_cache_dtype(config, dtype.chosen)
    choices += [device, dtype, cache_dtype]
    if files.pooling is None:
        choices.append(resources.choose_launch(config, device.chosen))
    kernels = choose_kernels(
        REFERENCES, _allowed_kernels(config, registry, choices), device.chosen, dtype.chosen
    )
    tuning, tuned = kernel_tuning.choose_tuning(
        config, kernels, registry, device.chosen, cache_dir()
    )
    choices.append(tuned)
    weight_bytes, kept = resources.plan_weights(
        checkpoint,
        model.weights(checkpoint.config),
        shape.num_layers,
        keep=find_keep(kernels, registry),
        wanted=config.weights.format,
        dtype=dtype.chosen,
    )
    choices.append(kept)
    num_pages, memory = resources.plan_memory(
        config,
        shape,
        weights=weight_bytes + resources.count_dense_bytes(files.pooling, dtype.chosen),
        device=device.chosen,
        dtype=dtype.chosen,
        cache_dtype=cache_dtype.chosen,
        context_length=rules.context_length,
        is_pooling=files.pooling is not None,
    )
    pace = config.scheduler.inter_token_ms
    settings = EngineSettings(
        max_batch_tokens=config.scheduler.max_batch_tokens,
        max_sequences=config.scheduler.max_sequences,
        prefill_chunk=config.scheduler.prefill_chunk,
        inter_token_ms=None if pace == "auto" else pace,
        page_size=config.cache.page_size,
        num_pages=num_pages,
        context_length=rules.context_length,
        vocab_size=shape.vocab_size,
        eos_token_ids=rules.end_ids,
        sampling_defaults=rules.sampling_defaults,
        cache_dtype=cache_dtype.chosen,
        is_prefix_cached=config.cache.share_prefixes,
    )
    return EnginePlan(
        config=config,
        path=files.path,
        checkpoint=checkpoint,
        model=model,
        shape=shape,
        device=device.chosen,
        dtype=dtype.chosen,
        kernels=kernels,
        tuning=tuning,
        settings=settings,
        memory=memory,
        task=files.task,
        pooling=files.pooling,
        choices=tuple(choices),
    )


def resolve_source(
    source: str, registry: Registry, progress: Progress, choices: list[Choice]
) -> Path:
    """Return the local path of a source, fetching it if it is not here yet."""
    found = registry.source_for(source)
    if found is None:
        path = Path(source).expanduser()
        if not path.exists():
            raise SourceError(f"no such file or folder: {source}")
        choices.append(Choice(topic="source", chosen=str(path), why="a local path"))
        return path
    (spec, owner), rest = found
    here = spec.find(rest, cache_dir())
    path = spec.fetch(rest, cache_dir(), progress) if here is None else here
    why = f"plugin {owner}; " + ("fetched now" if here is None else "already here")
    choices.append(Choice(topic="source", chosen=source, why=why))
    return path


def open_files(
    config: ModelConfig, path: Path, registry: Registry, choices: list[Choice]
) -> ModelFiles:
    """Open a model's files, find the architecture that they name, and what it is served for."""
    checkpoint = open_checkpoint(path, registry, choices)
    model, owner = registry.model_for(checkpoint.config)
    architectures = ", ".join(checkpoint.config["architectures"])
    why = f"{architectures}; plugin {owner}"
    if model.claims is not None:
        why += "; the slower road: no plugin is made for this architecture"
    choices.append(Choice(topic="architecture", chosen=model.name, why=why))
    shape = model.describe(checkpoint.config)
    task = choose_task(config, checkpoint, model, choices)
    pooling = choose_pooling(
        checkpoint, model, task, choices, is_causal=bool(shape.layers), width=shape.width
    )
    if pooling is not None and pooling.max_tokens is not None:
        longest = min(shape.context_length, pooling.max_tokens)
        shape = dataclasses.replace(shape, context_length=longest)
    return ModelFiles(
        path=path, checkpoint=checkpoint, model=model, shape=shape, task=task, pooling=pooling
    )


def open_checkpoint(path: Path, registry: Registry, choices: list[Choice]) -> Checkpoint:
    """Open the files with the one loader that claims them."""
    loader, owner = registry.loader_for(path)
    checkpoint = loader.open(path)
    size = sum(file.stat().st_size for file in checkpoint.files)
    formats = Counter(tensor.format for tensor in checkpoint.tensors.values())
    shown = ", ".join(f"{count} {name}" for name, count in formats.most_common())
    choices.append(
        Choice(
            topic="checkpoint",
            chosen=f"{loader.name}, {format_bytes(size)}",
            why=f"plugin {owner}; tensors: {shown}",
        )
    )
    return checkpoint


def _allowed_kernels(
    config: ModelConfig, registry: Registry, choices: list[Choice]
) -> list[Entry[KernelSpec]]:
    """Return the kernels that the config does not block, of ops that exist.

    Raises:
        ConfigError: it blocks one that does not exist.
    """
    from llmplug.ops import REFERENCES

    entries = registry.kernels.unique()
    names = {entry.spec.name for entry in entries}
    for name in config.kernels.block:
        if name not in names:
            hint = did_you_mean(name, names)
            raise ConfigError(f"kernels.block: no installed kernel is named {name!r}{hint}")
    for spec, owner in entries:
        if spec.op not in REFERENCES:
            why = f"plugin {owner}: llmplug has no op {spec.op!r}"
            choices.append(Choice(topic=f"kernel {spec.op}", chosen="ignored", why=why))
    return [
        entry
        for entry in entries
        if entry.spec.name not in config.kernels.block and entry.spec.op in REFERENCES
    ]


def find_keep(kernels: Sequence[KernelChoice], registry: Registry) -> Keep | None:
    """Return how the chosen `linear` keeps weights; None: dense."""
    (chosen,) = [choice.kernel for choice in kernels if choice.op == "linear"]
    for spec, _ in registry.kernels:
        if spec.op == "linear" and spec.name == chosen:
            return spec.keep
    return None


# --- building -----------------------------------------------------------------------------------
def build_engine(
    plan: EnginePlan, registry: Registry, progress: Progress
) -> Engine | PoolingEngine:
    """Load the weights and make the engine; takes the memory that the plan says."""
    import torch

    if plan.config.threads is not None:
        torch.set_num_threads(plan.config.threads)
    try:
        context = _load_model(plan, registry, progress)
        progress("engine", 0, 1)
        make = _make_engine if plan.pooling is None else _make_pooling_engine
        engine = make(plan, context, registry)
    except torch.OutOfMemoryError as error:
        num_tokens = plan.settings.num_pages * plan.settings.page_size
        raise ConfigError(
            resources.explain_shortage(
                plan.memory, plan.settings.context_length, num_tokens, plan.device
            )
        ) from error
    engine.report["kernels"] = {choice.op: choice.kernel for choice in context.ops.choices}
    progress("engine", 1, 1)
    return engine


def _load_model(plan: EnginePlan, registry: Registry, progress: Progress) -> BuildContext:
    """Load kernels and weights."""
    import torch

    from llmplug.engine.loading import load_weights
    from llmplug.ops import REFERENCES, load_kernels
    from llmplug.specs import BuildContext

    device, dtype = torch.device(plan.device), getattr(torch, plan.dtype)
    progress("kernels", 0, len(plan.kernels))  # a plugin may compile its own the first time
    ops = load_kernels(REFERENCES, registry.kernels.unique(), plan.kernels, plan.tuning)
    progress("kernels", len(plan.kernels), len(plan.kernels))
    config = plan.checkpoint.config
    weights = load_weights(
        plan.checkpoint,
        plan.model.weights(config),
        plan.model.ignored,
        plan.shape.num_layers,
        ops,
        device=device,
        dtype=dtype,
        progress=progress,
        linear_format=plan.config.weights.format,
    )
    shape = dataclasses.replace(plan.shape, context_length=plan.settings.context_length)
    return BuildContext(
        config=config, shape=shape, weights=weights, ops=ops, device=device, dtype=dtype
    )


def _make_engine(plan: EnginePlan, context: BuildContext, registry: Registry) -> Engine:
    from llmplug.engine.engine import Engine
    from llmplug.engine.graphs import choose_graphs

    model = plan.model.build(context)
    settings = plan.settings
    if plan.device == "cuda" and plan.config.cache.memory == "auto":
        settings = _fit_settings(plan, model, context)
    is_ahead = resources.choose_launch(plan.config, plan.device).chosen == "ahead"
    return Engine(
        model,
        context.shape,
        context.ops,
        [entry.spec for entry in registry.samplers.unique()],
        settings,
        context.device,
        open_grammars=_grammar_opener(plan, registry),
        read_vocabulary=partial(_read_vocabulary, plan),
        graphs=choose_graphs(context.device, context.ops) if is_ahead else None,
    )


def _fit_settings(plan: EnginePlan, model: Model, context: BuildContext) -> EngineSettings:
    """Give the cache what is left on a GPU beside the weights and the largest step."""
    from llmplug.engine.measure import CudaMeter, measure_workspace

    meter = CudaMeter(context.device)
    weights = meter.reset()
    workspace = measure_workspace(
        model, context.shape, context.ops, plan.settings, context.device, meter
    )
    meter.reset()
    free = resources.measure_available(plan.device)
    memory = resources.fit_cache(plan, weights=weights, workspace=workspace, free=free)
    page_bytes = memory.kv_per_token * plan.settings.page_size
    return dataclasses.replace(plan.settings, num_pages=memory.cache // page_bytes)


def _make_pooling_engine(plan: EnginePlan, context: BuildContext, _: Registry) -> PoolingEngine:
    from llmplug.engine.causal_reader import CausalReader
    from llmplug.engine.dense_stack import load_dense
    from llmplug.engine.pool_limits import PoolLimits
    from llmplug.engine.pooling import PoolingEngine

    if plan.pooling is None or plan.task == "generate":
        raise ValueError("a model that generates has an Engine")
    reader = plan.model.build(context)
    if plan.shape.layers:
        reader = CausalReader(reader, context, plan.settings)
    width, layers = plan.shape.width, plan.pooling.dense
    return PoolingEngine(
        reader,
        context.ops,
        plan.pooling,
        PoolLimits(
            task=plan.task,
            vocab_size=plan.settings.vocab_size,
            max_tokens=plan.settings.context_length,
            width=plan.pooling.width or width,
            token_width=width,
        ),
        context.device,
        max_batch_tokens=plan.settings.max_batch_tokens,
        max_texts=plan.settings.max_sequences,
        dense=load_dense(plan.checkpoint, layers, context) if layers else None,
    )


def _grammar_opener(plan: EnginePlan, registry: Registry) -> Callable[[], GrammarBackend] | None:
    """Return what opens the grammar backend of a model; None: none is installed."""
    spec = grammar_backends.choose_backend(plan.config.grammar_backend, registry)
    if spec is None:
        return None
    settings = plan.settings
    return lambda: grammar_backends.open_backend(
        spec, plan.checkpoint, settings.vocab_size, settings.eos_token_ids
    )


def _read_vocabulary(plan: EnginePlan) -> Vocabulary:
    """Read what tokens spell, for samplers that look at texts."""
    from llmplug.chat.tokenizer import Tokenizer
    from llmplug.chat.vocabulary import make_vocabulary

    tokenizer = Tokenizer(plan.checkpoint.tokenizer)
    return make_vocabulary(tokenizer, plan.settings.vocab_size, plan.settings.eos_token_ids)


def describe_samplers(registry: Registry) -> list[dict[str, Any]]:
    """Describe what a request may name in `samplers`, in the order in which they run."""
    from llmplug.engine.sampler_choice import order_specs

    entries = [entry for entry in registry.samplers.unique() if not entry.spec.fuses]
    owners = {entry.spec.name: entry.owner for entry in entries}
    return [
        {
            "object": "sampler",
            "name": spec.name,
            "stage": spec.stage,
            "order": spec.order,
            "plugin": owners[spec.name],
            "neutral": spec.params().model_dump(mode="json"),
            "schema": spec.params.model_json_schema(),
        }
        for spec in order_specs(entry.spec for entry in entries)
    ]


def sampler_fields(registry: Registry) -> frozenset[str]:
    """Return the request fields that the installed samplers take."""
    return frozenset(name for entry in registry.samplers for name in entry.spec.params.model_fields)
