"""A plan -> an engine that holds its weights: in the engine process, or in `LLM`.

build_engine  of rank 0, or the only one
build_calls   of another rank: what makes the calls that rank 0 tells it of
"""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from llmplug import grammar_backends, resources
from llmplug.cache_choice import refuse_obstacle
from llmplug.cache_scales import read_scales
from llmplug.errors import ConfigError
from llmplug.rank_plan import digest_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

    from llmplug.engine.engine import Engine
    from llmplug.engine.graphs import GraphRunner
    from llmplug.engine.pooling import PoolingEngine, TextReader
    from llmplug.engine.ranks.collective import GroupCollective
    from llmplug.engine.ranks.group import RankGroup
    from llmplug.engine.ranks.messages import Call
    from llmplug.engine.settings import EngineSettings
    from llmplug.grammar import GrammarBackend, Vocabulary
    from llmplug.plan import EnginePlan
    from llmplug.registry import Registry
    from llmplug.specs import BuildContext, Model, Progress


def build_engine(
    plan: EnginePlan, registry: Registry, progress: Progress, group: RankGroup | None = None
) -> Engine | PoolingEngine:
    """Load the weights and make the engine; takes the memory that the plan says.

    Args:
        group: the other ranks, where the plan has any; they build while this one does.

    Raises:
        ConfigError: it does not fit, or there is no group for a plan of several ranks.
    """
    if group is None and plan.num_ranks > 1:
        raise ConfigError("parallel.tensor: ranks are processes of a server; here it must be 1")
    with _explain_shortage(plan):
        ranks = None if group is None else _start_ranks(plan, group, progress)
        context = _load_model(plan, registry, progress, ranks)
        progress("engine", 0, 1)
        make = _make_engine if plan.pooling is None else _make_pooling_engine
        engine = make(plan, context, registry, ranks)
    if group is not None:
        group.await_ready()
    engine.report["kernels"] = {choice.op: choice.kernel for choice in context.ops.choices}
    progress("engine", 1, 1)
    return engine


def build_calls(
    plan: EnginePlan, registry: Registry, progress: Progress, store: Any, host: str | None
) -> Callable[[Call], None]:
    """Load a rank's part of the weights, and make what follows rank 0.

    Args:
        store: a `torch.distributed.Store`, by which the ranks find each other.
        host: address of this one for the others; None: all are on this machine.
    """
    from llmplug.engine.device_runner import make_runner
    from llmplug.engine.ranks.follow import ReaderCalls, RunnerCalls

    with _explain_shortage(plan):
        ranks = _meet(plan, store, host)
        context = _load_model(plan, registry, progress, ranks)
        if plan.pooling is not None:
            return ReaderCalls(_make_reader(plan, context), context.device)
        model = plan.model.build(context)
        settings = _fit_settings(plan, model, context, ranks)
        graphs = _choose_graphs(plan, context)
        runner = make_runner(model, context.shape, context.ops, settings, context.device, graphs)
    return RunnerCalls(runner, ranks.collective, context.device)


@dataclasses.dataclass(frozen=True, slots=True)
class Ranks:
    """The other ranks, as one of them sees them."""

    collective: GroupCollective
    group: RankGroup | None = None  # of rank 0


@contextmanager
def _explain_shortage(plan: EnginePlan) -> Iterator[None]:
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        num_tokens = plan.settings.num_pages * plan.settings.page_size
        raise ConfigError(
            resources.explain_shortage(
                plan.memory, plan.settings.context_length, num_tokens, plan.device
            )
        ) from error


def _start_ranks(plan: EnginePlan, group: RankGroup, progress: Progress) -> Ranks:
    """Let the others build their parts, and wait until they are there."""
    from llmplug.engine.ranks.collective import open_store

    group.gather(progress)
    group.build(plan.settings.num_pages, digest_checkpoint(plan.checkpoint))
    store = open_store(group.store, plan.num_ranks)
    return dataclasses.replace(_meet(plan, store, group.host), group=group)


def _meet(plan: EnginePlan, store: Any, host: str | None) -> Ranks:
    from llmplug.engine.ranks.collective import LOOPBACK, GroupCollective

    device, host = _find_device(plan), LOOPBACK if host is None else host
    return Ranks(GroupCollective(store, plan.place.rank, plan.num_ranks, device, host))


def _find_device(plan: EnginePlan) -> torch.device:
    """Return the device by its number: threads have a current one each."""
    import torch

    if plan.device == "cuda":
        return torch.device("cuda", plan.place.first_device)
    return torch.device(plan.device)


def _load_model(
    plan: EnginePlan, registry: Registry, progress: Progress, ranks: Ranks | None
) -> BuildContext:
    """Load kernels and weights."""
    import torch

    from llmplug.engine.loading import load_weights
    from llmplug.ops import REFERENCES, load_kernels, split_kernels
    from llmplug.ops.scale_support import find_obstacle
    from llmplug.specs import BuildContext

    threads = resources.share_threads(plan.config)
    if threads is not None:
        torch.set_num_threads(threads)
    device, dtype = _find_device(plan), getattr(torch, plan.dtype)
    progress("kernels", 0, len(plan.kernels))  # a plugin may compile its own the first time
    ops = load_kernels(REFERENCES, list(registry.kernels), plan.kernels, plan.tuning)
    if ranks is not None:
        ops = split_kernels(ops, ranks.collective)
    if plan.scales:  # what was planned may not have loaded
        refuse_obstacle(find_obstacle(ops.choices, list(registry.kernels), plan.device))
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
        rank=plan.place.rank,
        num_ranks=plan.num_ranks,
    )
    return BuildContext(
        config=config,
        shape=dataclasses.replace(
            plan.shape,
            context_length=plan.settings.context_length,
            layers=read_scales(plan.shape.layers, plan.scales, plan.checkpoint.tensors),
        ),
        weights=weights,
        ops=ops,
        device=device,
        dtype=dtype,
        num_ranks=plan.num_ranks,
    )


def _make_engine(
    plan: EnginePlan, context: BuildContext, registry: Registry, ranks: Ranks | None
) -> Engine:
    from llmplug.engine.engine import Engine
    from llmplug.engine.ranks.leading_runner import LeadingRunner

    model = plan.model.build(context)
    lead = None
    if ranks is not None and ranks.group is not None:
        lead = partial(LeadingRunner, group=ranks.group, collective=ranks.collective)
    return Engine(
        model,
        context.shape,
        context.ops,
        [entry.spec for entry in registry.samplers],
        _fit_settings(plan, model, context, ranks),
        context.device,
        open_grammars=_grammar_opener(plan, registry),
        read_vocabulary=partial(_read_vocabulary, plan),
        graphs=_choose_graphs(plan, context),
        lead=lead,
    )


def _choose_graphs(plan: EnginePlan, context: BuildContext) -> GraphRunner | None:
    from llmplug.engine.graphs import choose_graphs

    if resources.choose_launch(plan.config, plan.device).chosen != "ahead":
        return None
    return choose_graphs(context.device, context.ops)


def _fit_settings(
    plan: EnginePlan, model: Model, context: BuildContext, ranks: Ranks | None
) -> EngineSettings:
    """Give the cache what is left on a GPU beside the weights and the largest step.

    Of several ranks all give it what the fullest GPU has left.
    """
    from llmplug.engine.measure import CudaMeter, measure_workspace

    if plan.device != "cuda" or plan.config.cache.memory != "auto":
        return plan.settings
    meter = CudaMeter(context.device)
    weights = meter.reset()
    workspace = measure_workspace(
        model, context.shape, context.ops, plan.settings, context.device, meter
    )
    meter.reset()
    free = resources.measure_available(plan.device)
    memory = resources.fit_cache(plan, weights=weights, workspace=workspace, free=free)
    num_pages = memory.cache // (memory.kv_per_token * plan.settings.page_size)
    if ranks is not None:
        num_pages = ranks.collective.find_least(num_pages)
    return dataclasses.replace(plan.settings, num_pages=num_pages)


def _make_pooling_engine(
    plan: EnginePlan, context: BuildContext, _: Registry, ranks: Ranks | None
) -> PoolingEngine:
    from llmplug.engine.dense_stack import load_dense
    from llmplug.engine.pool_limits import PoolLimits
    from llmplug.engine.pooling import PoolingEngine
    from llmplug.engine.ranks.leading_runner import LeadingReader

    if plan.pooling is None or plan.task == "generate":
        raise ValueError("a model that generates has an Engine")
    reader = _make_reader(plan, context)
    width, layers = plan.shape.width, plan.pooling.dense
    return PoolingEngine(
        reader if ranks is None or ranks.group is None else LeadingReader(reader, ranks.group),
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


def _make_reader(plan: EnginePlan, context: BuildContext) -> TextReader:
    from llmplug.engine.causal_reader import CausalReader

    model = plan.model.build(context)
    reader: TextReader = model
    if plan.shape.layers:
        reader = CausalReader(model, context, plan.settings)
    return reader


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
