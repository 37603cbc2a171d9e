"""What runs in a process of its own: what it is told, and what it does with that.

connect_engine        a text plan -> the client of a supervised engine process
run_engine_process    the other end of that: plans and builds the engine
run_rank_process      a rank that computes the model with it
run_joined_rank       the same on another machine
grammar_payload       a text plan -> what the process that tries grammars is told
open_grammar_backend  the other end of that
"""

from __future__ import annotations

import dataclasses
import gc
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from llmplug import grammar_backends, logs, rank_plan
from llmplug.assemble import load_registry, open_files, plan_engine, resolve_source
from llmplug.build import build_calls, build_engine
from llmplug.config import Config
from llmplug.errors import CheckpointError, PluginError
from llmplug.plan import Place, SequenceRules

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llmplug.config import ModelConfig
    from llmplug.engine.client import EngineClient
    from llmplug.engine.engine import Engine
    from llmplug.engine.pooling import PoolingEngine
    from llmplug.engine.process import EngineProcess
    from llmplug.engine.ranks.follow import Follower
    from llmplug.engine.ranks.group import RankGroup
    from llmplug.engine.ranks.link import Link
    from llmplug.engine.ranks.messages import Order
    from llmplug.engine.stage_clock import StageClock
    from llmplug.grammar import GrammarBackend
    from llmplug.plan import EnginePlan, TextPlan
    from llmplug.registry import Registry
    from llmplug.specs import Progress

RANK_ARGV = (sys.executable, "-m", "llmplug", "rank")
DIAL_EVERY_S = 0.2  # while rank 0 is not there


def connect_engine(
    plan: TextPlan,
    config: Config,
    registry: Registry,
    progress: Progress,
    *,
    argv: Sequence[str],
    first_process: EngineProcess | None = None,
    place: Place = Place(),  # noqa: B008 - it is frozen
    is_replica: bool = False,
) -> EngineClient:
    """Make the client that starts and watches the engine process of one model.

    Args:
        argv: the program that calls `run_engine_process`.
        first_process: one that runs already, with nothing to do yet.
        place: its part of the machine.
        is_replica: whether another engine can be asked in its stead.
    """
    from llmplug.engine.client import EngineClient

    rank_plan.check_meeting(plan.config)
    return EngineClient(
        argv,
        engine_payload(plan, config, registry, place),
        name=plan.config.name,
        first_process=first_process,
        sampling_defaults=plan.rules.sampling_defaults,
        samplers=tuple(entry.spec for entry in registry.samplers),
        on_loading=progress,
        keeps_unsent=not is_replica,
    )


def engine_payload(plan: TextPlan, config: Config, registry: Registry, place: Place) -> bytes:
    """Return what an engine's process, and each rank of it, needs to know."""
    return msgspec.json.encode(
        {
            "config": config.model_dump(mode="json"),
            "model": plan.config.name,
            "path": str(plan.files.path),
            "rules": plan.rules,
            "place": place,
            "plugins": registry.report.engine_fingerprint(),
        }
    )


def run_engine_process(socket_path: str, clock: StageClock) -> int:
    """Run one model's engine: the other end of `connect_engine`.

    Args:
        clock: has begun with the stage of imports.

    Returns:
        The exit status.
    """
    from llmplug.engine.worker import has_payload, read_payload, run_worker

    is_told = has_payload()
    if not is_told:  # the server plans meanwhile
        _import_engine()
        clock.begin("waiting")
    payload = read_payload(socket_path)
    order = _read_order(payload)
    with ExitStack() as stack:
        group = None
        if order.model.parallel.tensor > 1:
            group = stack.enter_context(closing(_start_ranks(order, payload, socket_path)))
        if is_told:  # the other ranks import at the same time
            _import_engine()
        clock.begin("plugins")

        def build(progress: Progress) -> Engine | PoolingEngine:
            timed = clock.watch(progress)
            plan, registry = _plan_engine(order, order.place, clock, timed)
            engine = build_engine(plan, registry, timed, group)
            engine.report["choices"] = [[line.topic, line.chosen] for line in plan.report()]
            engine.report["seconds"] = clock.end()
            return engine

        return run_worker(socket_path, build, others=group)


def run_rank_process() -> NoReturn:
    """Run a rank beside an engine's process, which has started it, until that is gone."""
    from llmplug.engine.ranks.link import take_link

    link = take_link()
    _import_engine()
    from llmplug.engine.ranks.collective import open_store
    from llmplug.engine.ranks.follow import Follower

    follower = Follower(link)
    told = follower.read_order()
    order = _read_order(told.payload)
    first_device = order.place.first_device + told.rank
    place = dataclasses.replace(order.place, first_device=first_device, rank=told.rank)
    order = dataclasses.replace(order, place=place)
    _follow(follower, order, lambda: open_store(Path(told.store or ""), told.num_ranks), told.host)


def run_joined_rank(config: Config, model: ModelConfig, node: int, place: int) -> NoReturn:
    """Run a rank on another machine than rank 0's, until that is gone.

    Args:
        config: of this machine; `model` must be what rank 0 has, but for where its files are.
        place: of this rank among those of the node.

    Raises:
        ConfigError: rank 0 has another secret, or nobody says where it is.
    """
    _import_engine()
    from llmplug.engine.ranks.follow import Follower
    from llmplug.engine.ranks.link import end_with
    from llmplug.engine.ranks.store_link import LinkedStore

    link = _find_rank_0(model)
    end_with(link)
    follower = Follower(link)
    try:
        told = follower.join(node, place)
        order = _read_order_for_others(told, config, model, place)
        host = link.host

        def open_store() -> LinkedStore:
            store_link = _find_rank_0(model)
            Follower(store_link).ask_for_store(node, place)
            return LinkedStore(store_link)
    except Exception as error:  # noqa: BLE001 - whatever it is, rank 0 must hear of it
        follower.fail(error)
    _follow(follower, order, open_store, host)


def _find_rank_0(model: ModelConfig) -> Link:
    """Come to where rank 0 is, as soon as it is there.

    Raises:
        ConfigError: whoever is there has another secret.
    """
    from llmplug.engine.ranks.network import dial

    meeting = rank_plan.find_meeting(model)
    while True:
        try:
            return dial(*meeting)
        except OSError:  # not there yet, or busy
            time.sleep(DIAL_EVERY_S)


def _follow(
    follower: Follower, order: _Order, open_store: Callable[[], Any], host: str | None
) -> NoReturn:
    """Build this rank's part as soon as rank 0 says so, and do what it does.

    Args:
        open_store: by which the ranks find each other.
        host: address of this one for the others; None: all are on one machine.
    """
    from llmplug.engine.stage_clock import StageClock

    try:
        wanted = follower.read_plan()
        place = dataclasses.replace(order.place, num_pages=wanted.num_pages)
        plan, registry = _plan_engine(order, place, StageClock("plugins"), _ignore)
        if rank_plan.digest_checkpoint(plan.checkpoint) != wanted.checkpoint:
            raise CheckpointError(f"{order.model.source} is another checkpoint than rank 0 has")
        calls = build_calls(plan, registry, _ignore, open_store(), host)
        gc.collect()
        gc.freeze()
        gc.enable()
        follower.follow(calls)
    except Exception as error:  # noqa: BLE001 - whatever it is, rank 0 must hear of it
        follower.fail(error)


@dataclasses.dataclass(frozen=True, slots=True)
class _Order:
    """What an engine's process is told."""

    config: Config
    model: ModelConfig
    path: Path | None  # None: its source is still to be found
    rules: SequenceRules
    place: Place
    plugins: Any


def _read_order(payload: bytes) -> _Order:
    """Read what `connect_engine` wrote, and log as its config says."""
    wanted = msgspec.json.decode(payload)
    config = Config.model_validate(wanted["config"])
    logs.set_up(config.log.level, config.log.format, model=wanted["model"])
    (model,) = [model for model in config.models if model.name == wanted["model"]]
    return _Order(
        config=config,
        model=model,
        path=Path(wanted["path"]),
        rules=msgspec.convert(wanted["rules"], SequenceRules),
        place=msgspec.convert(wanted["place"], Place),
        plugins=wanted["plugins"],
    )


def _write_for_others(order: _Order) -> bytes:
    """Write what ranks of other machines are told: nothing of the server, and no secret."""
    return msgspec.json.encode(
        {
            "model": rank_plan.describe_for_others(order.model),
            "rules": order.rules,
            "plugins": order.plugins,
        }
    )


def _read_order_for_others(told: Order, config: Config, model: ModelConfig, place: int) -> _Order:
    """Read that on another machine.

    Raises:
        ConfigError: its config says something else of the model.
    """
    wanted = msgspec.json.decode(told.payload)
    rank_plan.check_same(wanted["model"], model)
    return _Order(
        config=config,
        model=model,
        path=None,
        rules=msgspec.convert(wanted["rules"], SequenceRules),
        place=Place(first_device=place, rank=told.rank),
        plugins=wanted["plugins"],
    )


def _start_ranks(order: _Order, payload: bytes, socket_path: str) -> RankGroup:
    from llmplug.engine.ranks.group import Meeting, RankGroup
    from llmplug.engine.worker import find_store

    nodes, meeting = order.model.parallel.nodes, None
    if nodes > 1:
        host, port, secret = rank_plan.find_meeting(order.model)
        meeting = Meeting(nodes, host, port, secret, _write_for_others(order))
    return RankGroup(
        RANK_ARGV,
        payload,
        num_ranks=order.model.parallel.tensor,
        store=find_store(socket_path),
        meeting=meeting,
    )


def _plan_engine(
    order: _Order, place: Place, clock: StageClock, progress: Progress
) -> tuple[EnginePlan, Registry]:
    registry = load_registry(order.config)
    if registry.report.engine_fingerprint() != order.plugins:
        raise PluginError(_explain_plugins(order))
    clock.begin("files")
    # Where the server has resolved the source, its other processes open the very same files.
    path = order.path or resolve_source(order.model.source, registry, progress, [])
    files = open_files(order.model, path, registry, [])
    progress("kernels", 0, 0)  # to plan with them, a plugin may compile its own the first time
    return plan_engine(order.model, files, order.rules, registry, place), registry


def _explain_plugins(order: _Order) -> str:
    if order.path is None:
        return "the plugins of this machine are not those of rank 0; `llmplug plugins` lists them"
    return (
        "the engine process finds other plugins than the server did; "
        "were some installed or removed meanwhile? Start the server again"
    )


def _ignore(stage: str, done: int, total: int) -> None:
    """Rank 0 tells how far the start is."""


def _import_engine() -> None:
    """Import what every engine needs; it takes longer than the parent plans."""
    import llmplug.engine.engine
    import llmplug.engine.loading
    import llmplug.ops  # noqa: F401

    gc.freeze()  # the modules live on: no collection need look at them


def grammar_payload(plan: TextPlan, config: Config) -> bytes:
    """Return what `open_grammar_backend` needs to know in a process of its own."""
    return msgspec.json.encode(
        {
            "config": config.model_dump(mode="json"),
            "model": plan.config.name,
            "path": str(plan.files.path),
            "backend": plan.config.grammar_backend,
            "end_ids": sorted(plan.rules.end_ids),
        }
    )


def open_grammar_backend(payload: bytes) -> tuple[GrammarBackend, int]:
    """Open the backend of the model that `grammar_payload` describes; without torch.

    Returns:
        The backend, and the width of the model's logits.
    """
    wanted = msgspec.json.decode(payload)
    config = Config.model_validate(wanted["config"])
    logs.set_up(config.log.level, config.log.format, model=wanted["model"])
    registry = load_registry(config)
    spec = grammar_backends.choose_backend(wanted["backend"], registry)
    if spec is None:
        raise PluginError("no installed plugin offers a grammar backend")
    (model,) = [model for model in config.models if model.name == wanted["model"]]
    files = open_files(model, Path(wanted["path"]), registry, [])
    vocab_size = files.shape.vocab_size
    backend = grammar_backends.open_backend(spec, files.checkpoint, vocab_size, wanted["end_ids"])
    return backend, vocab_size
