"""`llmplug serve`: answer requests over HTTP until a signal says stop."""

from __future__ import annotations

import argparse
import gc
import logging
import sys
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from llmplug.config import Config, ModelConfig
    from llmplug.engine.client import EngineClient
    from llmplug.engine.process import EngineProcess
    from llmplug.plan import TextPlan
    from llmplug.plugin_report import Plugin
    from llmplug.registry import Registry
    from llmplug.server.engine_connection import EngineConnection
    from llmplug.server.missing_model import MissingModel
    from llmplug.server.model_service import ModelService
    from llmplug.server.supervisor import Supervisor
    from llmplug.specs import Progress

NAME = "serve"
HELP = "serve a config, or one model by its source, over the OpenAI API"
ENGINE_ARGV = (sys.executable, "-m", "llmplug", "engine")
WRONG = 2  # the exit status of `llmplug.cli.main`
GRAMMARS_ARGV = (sys.executable, "-m", "llmplug", "grammars")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take a config, or a source and where to listen."""
    from llmplug.cli.arguments import add_config_or_source

    add_config_or_source(parser)
    parser.add_argument("--host", help="with SOURCE: address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, help="with SOURCE: TCP port (8000)")
    parser.add_argument("--api-key", help="with SOURCE: the key that requests must carry")


def run(args: argparse.Namespace) -> int:
    """Serve in a process of its own, and again in another one if that dies."""
    from llmplug.server.supervisor import supervise

    return supervise(partial(run_http, args))


def run_http(args: argparse.Namespace, supervisor: Supervisor | None) -> int:
    """Plan, start the engines and serve."""
    from llmplug.engine.process import EngineProcess
    from llmplug.errors import LlmplugError

    gc.disable()  # a start leaves no garbage to speak of
    with ExitStack() as stack:
        stack.callback(gc.enable)
        stack.callback(gc.unfreeze)
        # Before all else, as an engine takes longer to import torch than we to plan; whatever the
        # config says, it has a model, and hardly ever one that waits for requests.
        processes = [stack.enter_context(EngineProcess(ENGINE_ARGV))]
        config = _read_config(args)
        num_eager = count_eager(config)
        if not num_eager:
            processes.pop().discard()
        processes += [stack.enter_context(EngineProcess(ENGINE_ARGV)) for _ in range(1, num_eager)]
        try:
            _serve(args, config, iter(processes), supervisor)
        except LlmplugError as error:
            if config.log.format == "text":
                raise
            logging.getLogger("llmplug").critical("%s", error)
            return WRONG
    return 0


def _read_config(args: argparse.Namespace) -> Config:
    from llmplug.cli.arguments import read_config_or_source

    return read_config_or_source(args, host=args.host, port=args.port, api_key=args.api_key)


def _show_config(config: Config, plugins: Sequence[Plugin]) -> None:
    from llmplug.config import dump_yaml

    shown = dump_yaml(config, plugins)
    sys.stderr.write(f"# the same as --config with this file:\n{shown}\n")


def _serve(
    args: argparse.Namespace,
    config: Config,
    processes: Iterator[EngineProcess],
    supervisor: Supervisor | None,
) -> None:
    from llmplug import assemble, logs
    from llmplug.cli.terminal import TerminalProgress
    from llmplug.errors import ConfigError
    from llmplug.server.app import create_app, serve
    from llmplug.server.reload import Origin
    from llmplug.server.service import Service

    logs.set_up(config.log.level, config.log.format)
    if supervisor is not None and supervisor.last_end:
        logging.getLogger("llmplug").error("the HTTP process %s", supervisor.last_end)
    registry = assemble.load_registry(config)
    for plugin in registry.report.problems:
        logging.getLogger("llmplug").warning("%s", plugin)
    if args.source is not None:
        _show_config(config, registry.report.plugins)
    with TerminalProgress(logs.LineLog() if config.log.format == "json" else None) as progress:
        models, missing, plans = make_models(config, registry, progress, processes)
        gc.freeze()  # tokenizers live on: no collection need look at them while requests wait
        gc.enable()
        try:
            service = Service(models, assemble.describe_samplers(registry), missing)
            origin = Origin(config, partial(_read_config, args), registry, plans)
            app = create_app(service, config.server, origin)
            serve(app, config.server, supervisor)
        except OSError as error:
            where = f"{config.server.host}, port {config.server.port}"
            raise ConfigError(f"cannot listen on {where}: {error.strerror or error}") from error


def count_eager(config: Config) -> int:
    """Count the engines that start with the server."""
    return sum(model.replicas for model in config.models if model.start == "eager")


def make_models(
    config: Config, registry: Registry, progress: Progress, processes: Iterator[EngineProcess]
) -> tuple[list[ModelService], list[MissingModel], dict[str, TextPlan]]:
    """Make what serves each model; one whose files cannot be read leaves the others.

    Returns:
        What serves, what is missing, and the plan of each that serves, by name.
    Raises:
        LlmplugError: the config is wrong, or no model is left.
    """
    from llmplug import assemble
    from llmplug.errors import CheckpointError, SourceError
    from llmplug.server.missing_model import MissingModel

    models: list[ModelService] = []
    plans: dict[str, TextPlan] = {}
    failures: dict[str, SourceError | CheckpointError] = {}
    for model in config.models:
        try:
            plan = assemble.plan_text(model, registry, progress)
            models.append(_make_model(plan, config, registry, progress, processes))
            plans[model.name] = plan
        except (SourceError, CheckpointError) as error:
            failures[model.name] = error
    if not models:
        raise next(iter(failures.values()))
    for name, reason in failures.items():
        logging.getLogger("llmplug").error("%s cannot be served: %s", name, reason)
    for process in processes:  # of those that failed
        process.discard()
    missing = [MissingModel(m.name, m.aliases) for m in config.models if m.name in failures]
    return models, missing, plans


def _make_model(
    plan: TextPlan,
    config: Config,
    registry: Registry,
    progress: Progress,
    processes: Iterator[EngineProcess],
) -> ModelService:
    from llmplug import assemble, grammar_backends
    from llmplug.processes import connect_engine, grammar_payload
    from llmplug.server.grammar_check import GrammarChecker
    from llmplug.server.model_service import ModelService

    model = plan.config
    for line in plan.choices:
        if line.topic == "warning":  # told below, in full
            continue
        logging.getLogger("llmplug").info("%s: %s: %s", model.name, line.topic, line.chosen)
    for problem in plan.dialect.problems:
        logging.getLogger("llmplug").warning("%s: %s", model.name, problem)
    grammars = None
    backend = grammar_backends.choose_backend(model.grammar_backend, registry)
    if backend is not None and plan.files.task == "generate":
        grammars = GrammarChecker(GRAMMARS_ARGV, grammar_payload(plan, config))
    client = _choose_connection(
        plan,
        partial(connect_engine, plan, config, registry, progress, argv=ENGINE_ARGV),
        processes,
        on_asleep=None if grammars is None else grammars.rest,
    )
    return ModelService(
        model.name,
        plan.tokenizer,
        plan.renderer,
        client,
        aliases=model.aliases,
        sampler_fields=assemble.sampler_fields(registry),
        dialect=plan.dialect,
        grammars=grammars,
        trusts_templates=model.trust_request_templates,
        task=plan.files.task,
        pooling=plan.files.pooling,
        labels=plan.files.labels,
        context_length=plan.rules.context_length,
    )


def _choose_connection(
    plan: TextPlan,
    connect: Callable[..., EngineClient],
    processes: Iterator[EngineProcess],
    *,
    on_asleep: Callable[[], Awaitable[None]] | None,
) -> EngineConnection:
    """Make what starts and watches the engines of a model, now or when they are wanted."""
    from llmplug.server.on_demand import EngineOnDemand

    model = plan.config
    first = _connect_engines(model, connect, processes) if model.start == "eager" else None
    if first is not None and model.keep_alive_s is None:
        return first
    return EngineOnDemand(
        model.name,
        partial(_connect_engines, model, connect, iter(())),
        first=first,
        keep_alive_s=model.keep_alive_s,
        on_asleep=on_asleep,
    )


def _connect_engines(
    model: ModelConfig, connect: Callable[..., EngineClient], processes: Iterator[EngineProcess]
) -> EngineConnection:
    """Make the client of a model's engine, or of its replicas.

    Args:
        processes: that run ahead, for as many engines as there are.
    """
    from llmplug.resources import place_replicas
    from llmplug.server.replicas.replica_set import ReplicaSet

    is_replica = model.replicas > 1
    clients = [
        connect(first_process=next(processes, None), place=place, is_replica=is_replica)
        for place in place_replicas(model)
    ]
    if not is_replica:
        return clients[0]
    return ReplicaSet(model.name, clients, shares_prefixes=model.cache.share_prefixes)
