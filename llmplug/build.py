"""A plan -> an engine that holds its weights: in the engine process, or in `LLM`."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING

from llmplug import grammar_backends, resources
from llmplug.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmplug.engine.engine import Engine
    from llmplug.engine.pooling import PoolingEngine
    from llmplug.engine.settings import EngineSettings
    from llmplug.grammar import GrammarBackend, Vocabulary
    from llmplug.plan import EnginePlan
    from llmplug.registry import Registry
    from llmplug.specs import BuildContext, Model, Progress


def build_engine(
    plan: EnginePlan, registry: Registry, progress: Progress
) -> Engine | PoolingEngine:
    """Load the weights and make the engine; takes the memory that the plan says."""
    import torch

    threads = resources.share_threads(plan.config)
    if threads is not None:
        torch.set_num_threads(threads)
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
