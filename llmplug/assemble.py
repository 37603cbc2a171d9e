"""Config + registry -> plans: every choice is made here, once. `build.py` follows them.

load_plugins     find, load and check the plugins
load_registry    the same, to choose from
plan_text        files, architecture, tokenizer, template, what ends an answer: no torch
plan_engine      device, kernels, memory; no weight is read
plan_model       both, where one process does all
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmplug import (
    generation_defaults,
    grammar_backends,
    kernel_tuning,
    plugins,
    rank_plan,
    resources,
)
from llmplug.cache_choice import choose_cache
from llmplug.config.plugin_settings import PluginSettings
from llmplug.did_you_mean import did_you_mean
from llmplug.engine.settings import EngineSettings
from llmplug.errors import ConfigError, SourceError
from llmplug.plan import (
    Choice,
    EnginePlan,
    ModelFiles,
    ModelPlan,
    Place,
    SequenceRules,
    TextPlan,
    format_bytes,
)
from llmplug.pooling_choice import choose_pooling, choose_task
from llmplug.registry import Entry, Registry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmplug.config import Config, ModelConfig
    from llmplug.ops import KernelChoice
    from llmplug.plugin_report import PluginReport
    from llmplug.resources import Keep
    from llmplug.specs import Checkpoint, KernelSpec, Progress


def cache_dir() -> Path:
    """Return the folder where downloads are kept: $XDG_CACHE_HOME/llmplug."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "llmplug"


def load_plugins(config: Config) -> PluginReport:
    """Find, load and check the plugins that this configuration allows, and tell each its settings.

    Raises:
        PluginError: one that the config blocks is not there.
        ConfigError: settings of one are wrong, or nobody takes them.
    """
    settings = PluginSettings(config)
    report = plugins.load_all(block=config.plugins.block, read_settings=settings.read)
    settings.check(report)
    return report


def load_registry(config: Config) -> Registry:
    """Make a registry of the plugins that this configuration allows.

    Raises:
        PluginError, ConfigError: as `load_plugins`, or one that the config requires is not ok.
    """
    report = load_plugins(config)
    return Registry(report, require=config.plugins.require)


def plan_model(config: ModelConfig, registry: Registry, progress: Progress) -> ModelPlan:
    """Make every choice for one model; reads headers, never weights.

    Raises:
        SourceError, CheckpointError, ConfigError, PluginError: each says what to do.
    """
    text = plan_text(config, registry, progress)
    place = resources.place_replicas(config)[0]
    engine = plan_engine(config, text.files, text.rules, registry, place)
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
    config: ModelConfig,
    files: ModelFiles,
    rules: SequenceRules,
    registry: Registry,
    place: Place = Place(),  # noqa: B008 - it is frozen
) -> EnginePlan:
    """Make the choices that depend on the device; a server leaves them to the engine process.

    Where the device is a GPU, that of `place` is torch's current one from then on.

    Raises:
        ConfigError, PluginError, KernelInputError: each says what to do.
    """
    from llmplug.ops import REFERENCES, choose_kernels
    from llmplug.ops.split_kernels import refuse_fused_layers

    choices: list[Choice] = []
    shape = rank_plan.divide(config, files)
    device = resources.choose_device(config)
    if device.chosen == "cuda":
        resources.take_gpu(place)
    dtype = resources.choose_dtype(config, device.chosen)
    choices += [device, dtype]
    allowed = allowed_kernels(config, registry, choices)
    kernels = choose_kernels(REFERENCES, allowed, device.chosen, dtype.chosen)
    if config.parallel.tensor > 1:
        kernels = refuse_fused_layers(kernels)
    cache_dtype, scales = choose_cache(config, files, dtype.chosen, device.chosen, kernels, allowed)
    choices.append(cache_dtype)
    if files.pooling is None:
        choices.append(resources.choose_launch(config, device.chosen))
    tuning, tuned = kernel_tuning.choose_tuning(
        config, kernels, registry, device.chosen, cache_dir()
    )
    choices.append(tuned)
    table, tensors = rank_plan.share_weights(files, config.parallel.tensor, place.rank)
    weight_bytes, kept = resources.plan_weights(
        tensors,
        table,
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
        place=place,
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
        checkpoint=files.checkpoint,
        model=files.model,
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
        place=place,
        scales=scales,
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


def allowed_kernels(
    config: ModelConfig, registry: Registry, choices: list[Choice]
) -> list[Entry[KernelSpec]]:
    """Return the kernels that the config does not block, of ops that exist.

    Raises:
        ConfigError: it blocks one that does not exist.
    """
    from llmplug.ops import REFERENCES

    entries = list(registry.kernels)
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


def describe_samplers(registry: Registry) -> list[dict[str, Any]]:
    """Describe what a request may name in `samplers`, in the order in which they run."""
    from llmplug.engine.sampler_choice import order_specs

    entries = [entry for entry in registry.samplers if not entry.spec.fuses]
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
