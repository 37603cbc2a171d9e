"""Config + registry -> plans, engines and clients: every choice is made here, once.

load_registry    find, load and check the plugins
plan_model       files, loader, architecture, device, kernels, memory, template: nothing loaded
build_engine     a plan -> an Engine that holds its weights (engine process, or `LLM`)
build_renderer   a plan -> its chat renderer
connect_engine   a plan -> the client of a supervised engine process
run_engine_process   the other end of that
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from llmplug import generation_defaults, plugins, resources
from llmplug.config import Config, ModelConfig
from llmplug.did_you_mean import did_you_mean
from llmplug.engine.settings import EngineSettings
from llmplug.errors import ConfigError, PluginError, SourceError
from llmplug.plan import Choice, ModelPlan, format_bytes
from llmplug.registry import Entry, Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llmplug.engine.client import EngineClient
    from llmplug.engine.engine import Engine
    from llmplug.ops import KernelChoice
    from llmplug.specs import Checkpoint, KeptWeight, KernelSpec, LazyTensor, Progress


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
    from llmplug.chat.render import ChatRenderer
    from llmplug.chat.tokenizer import Tokenizer
    from llmplug.ops import REFERENCES, choose_kernels

    choices: list[Choice] = []
    path = resolve_source(config.source, registry, progress, choices)
    checkpoint = open_checkpoint(path, registry, choices)
    model, owner = registry.model_for(checkpoint.config)
    architectures = ", ".join(checkpoint.config["architectures"])
    choices.append(
        Choice(topic="architecture", chosen=model.name, why=f"{architectures}; plugin {owner}")
    )
    shape = model.describe(checkpoint.config)
    device = resources.choose_device(config)
    dtype = resources.choose_dtype(config, device.chosen)
    context = resources.choose_context_length(config, shape)
    cache_dtype = resources.choose_cache_dtype(config, dtype.chosen)
    choices += [device, dtype, cache_dtype, context]
    tokenizer = Tokenizer(checkpoint.tokenizer)
    template = generation_defaults.choose_template(config, checkpoint, tokenizer, registry, choices)
    defaults = generation_defaults.choose_sampling_defaults(config, checkpoint, choices)
    renderer = None if template.source is None else ChatRenderer(tokenizer, template.source)
    end_ids = generation_defaults.choose_end_ids(
        config, checkpoint, tokenizer, template, renderer, choices
    )
    kernels = choose_kernels(
        REFERENCES, _allowed_kernels(config, registry, choices), device.chosen, dtype.chosen
    )
    weight_bytes, kept = resources.plan_weights(
        checkpoint,
        model.weights(checkpoint.config),
        shape.num_layers,
        keep=_find_keep(kernels, registry),
        wanted=config.weights.format,
        dtype=dtype.chosen,
    )
    choices.append(kept)
    num_pages, memory = resources.plan_memory(
        config,
        shape,
        weights=weight_bytes,
        device=device.chosen,
        dtype=dtype.chosen,
        cache_dtype=cache_dtype.chosen,
        context_length=int(context.chosen),
    )
    settings = EngineSettings(
        max_batch_tokens=config.scheduler.max_batch_tokens,
        max_sequences=config.scheduler.max_sequences,
        prefill_chunk=config.scheduler.prefill_chunk,
        page_size=config.cache.page_size,
        num_pages=num_pages,
        context_length=int(context.chosen),
        vocab_size=shape.vocab_size,
        eos_token_ids=end_ids,
        sampling_defaults=defaults,
        cache_dtype=cache_dtype.chosen,
    )
    return ModelPlan(
        config=config,
        name=config.name,
        path=path,
        checkpoint=checkpoint,
        model=model,
        shape=shape,
        device=device.chosen,
        dtype=dtype.chosen,
        kernels=kernels,
        settings=settings,
        memory=memory,
        tokenizer=tokenizer,
        renderer=renderer,
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


def _find_keep(
    kernels: Sequence[KernelChoice], registry: Registry
) -> Callable[[LazyTensor, str], KeptWeight] | None:
    """Return how the chosen `linear` keeps weights."""
    (chosen,) = [choice.kernel for choice in kernels if choice.op == "linear"]
    for spec, _ in registry.kernels:
        if spec.op == "linear" and spec.name == chosen:
            return spec.keep
    return None


# --- building -----------------------------------------------------------------------------------
def build_engine(plan: ModelPlan, registry: Registry, progress: Progress) -> Engine:
    """Load the weights and make the engine; takes the memory that the plan says."""
    import torch

    from llmplug.engine.engine import Engine
    from llmplug.engine.loading import load_weights
    from llmplug.ops import REFERENCES, load_kernels
    from llmplug.specs import BuildContext

    if plan.config.threads is not None:
        torch.set_num_threads(plan.config.threads)
    device, dtype = torch.device(plan.device), getattr(torch, plan.dtype)
    progress("kernels", 0, len(plan.kernels))  # a plugin may compile its own the first time
    ops = load_kernels(REFERENCES, registry.kernels.unique(), plan.kernels)
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
    context = BuildContext(
        config=config, shape=shape, weights=weights, ops=ops, device=device, dtype=dtype
    )
    samplers = [entry.spec for entry in registry.samplers.unique()]
    engine = Engine(plan.model.build(context), shape, ops, samplers, plan.settings, device)
    engine.report["kernels"] = {choice.op: choice.kernel for choice in ops.choices}
    return engine


def sampler_fields(registry: Registry) -> frozenset[str]:
    """Return the request fields that the installed samplers take."""
    return frozenset(name for entry in registry.samplers for name in entry.spec.params.model_fields)


# --- the engine process -------------------------------------------------------------------------
def connect_engine(
    plan: ModelPlan, config: Config, registry: Registry, progress: Progress
) -> EngineClient:
    """Make the client that starts and watches the engine process of one model."""
    from llmplug.engine.client import EngineClient

    payload = {
        "config": config.model_dump(mode="json"),
        "model": plan.name,
        "path": str(plan.path),
        "plugins": registry.report.fingerprint(),
    }
    argv = [sys.executable, "-m", "llmplug", "engine"]
    params = tuple(entry.spec.params for entry in registry.samplers.unique())
    return EngineClient(
        argv,
        json.dumps(payload).encode(),
        plan.settings,
        sampler_params=params,
        on_loading=progress,
    )


def run_engine_process(socket_path: str) -> int:
    """Run one model's engine: the other end of `connect_engine`. Returns the exit status."""
    from llmplug.engine.worker import read_payload, run_worker

    wanted = json.loads(read_payload(socket_path))
    config = Config.model_validate(wanted["config"])

    def build(progress: Progress) -> Engine:
        registry = load_registry(config)
        if registry.report.fingerprint() != wanted["plugins"]:
            raise PluginError(
                "the engine process finds other plugins than the server did; "
                "were some installed or removed meanwhile? Start the server again"
            )
        (model,) = [model for model in config.models if model.name == wanted["model"]]
        # The server has resolved the source; the engine process opens the very same files.
        model = model.model_copy(update={"source": wanted["path"]})
        return build_engine(plan_model(model, registry, progress), registry, progress)

    return run_worker(socket_path, build)
