"""`llmplug batch`: answer a file of requests without a server."""

from __future__ import annotations

import argparse
import asyncio
import logging
import math
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmplug.config import Config
    from llmplug.server.batches.lines import Line
    from llmplug.server.batches.offline import AnswersFile

NAME = "batch"
HELP = "answer a file of requests, in OpenAI's batch format, without a server"
UNHURRIED_MS = 1e6  # a step: nobody reads along: steps as full as they can be


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take two files, and a config or a source."""
    from llmplug.cli.arguments import add_config_or_source

    parser.add_argument("input", metavar="INPUT", type=Path, help="JSON lines, one request each")
    parser.add_argument(
        "output",
        metavar="OUTPUT",
        type=Path,
        help="JSON lines, one answer each, as they come; what it holds already is not asked again",
    )
    add_config_or_source(parser)
    parser.add_argument(
        "--at-once", type=int, metavar="N", help="requests that run at once (what a step holds)"
    )


def run(args: argparse.Namespace) -> int:
    """Answer what is not answered yet; 1: a line was answered with an error, or not at all."""
    from llmplug.cli.arguments import read_config_or_source
    from llmplug.errors import ConfigError
    from llmplug.server.batches.offline import AnswersFile

    if args.at_once is not None and args.at_once < 1:
        raise ConfigError("--at-once is 1 or more")
    config = read_config_or_source(args)
    logging.basicConfig(level="WARNING", stream=sys.stderr)
    lines = _read_input(args.input)
    with AnswersFile(args.output) as answers:
        _check_ids(lines, answers, args.output)
        left = [line for line in lines if line.custom_id not in answers.answered]
        if left:
            wanted = _choose_models(config, left)
            at_once = args.at_once or max(m.scheduler.max_sequences for m in wanted.models)
            _answer(wanted, left, answers, at_once)
        num_before, num_now = len(lines) - len(left), answers.num_added
        sys.stderr.write(
            f"{len(lines)} lines: {num_now} answered now, {num_before} before; "
            f"{answers.num_failed} with an error\n"
        )
        return 1 if answers.num_failed or num_before + num_now < len(lines) else 0


def _read_input(path: Path) -> list[Line]:
    from llmplug.errors import ConfigError
    from llmplug.server.batches.lines import read_lines

    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    lines, problems = read_lines(data, None, max_lines=math.inf)
    if problems:
        told = [f"line {each.number}: {each.message}" for each in problems if each.number]
        raise ConfigError(f"{path}: " + "; ".join(told or [problems[0].message]))
    return lines


def _check_ids(lines: Sequence[Line], answers: AnswersFile, path: Path) -> None:
    from llmplug.errors import ConfigError

    strangers = answers.answered - {line.custom_id for line in lines}
    if strangers:
        raise ConfigError(f"{path} holds answers to other lines, such as {min(strangers)[:100]!r}")


def _choose_models(config: Config, lines: Sequence[Line]) -> Config:
    """Leave the models that lines name, with steps as full as they can be.

    Raises:
        ConfigError: they name none of the config's.
    """
    from llmplug.errors import ConfigError

    named = {line.read_body().get("model") for line in lines}
    models = [model for model in config.models if named & {model.name, *model.aliases}]
    if not models:
        names = ", ".join(model.name for model in config.models)
        raise ConfigError(f"no line names a model of the config: {names}")
    for i, model in enumerate(models):
        if model.scheduler.inter_token_ms == "auto":  # noqa: S105 - no password
            scheduler = model.scheduler.model_copy(update={"inter_token_ms": UNHURRIED_MS})
            models[i] = model.model_copy(update={"scheduler": scheduler})
    return config.model_copy(update={"models": tuple(models)})


def _answer(config: Config, lines: Sequence[Line], answers: AnswersFile, at_once: int) -> None:
    from llmplug import assemble
    from llmplug.cli.serve import ENGINE_ARGV, count_eager, make_models
    from llmplug.cli.terminal import TerminalProgress
    from llmplug.engine.process import EngineProcess
    from llmplug.errors import SourceError
    from llmplug.server.batches.offline import answer_offline
    from llmplug.server.service import Service

    with ExitStack() as stack:
        num_eager = count_eager(config)
        processes = [stack.enter_context(EngineProcess(ENGINE_ARGV)) for _ in range(num_eager)]
        progress = stack.enter_context(TerminalProgress())
        registry = assemble.load_registry(config)
        models, missing, _ = make_models(config, registry, progress, iter(processes))
        if missing:
            names = ", ".join(model.name for model in missing)
            raise SourceError(f"the files of {names} cannot be read; the log says why")
        service = Service(models, assemble.describe_samplers(registry))
        asyncio.run(
            answer_offline(
                service, config.server, lines, answers, at_once=at_once, progress=progress
            )
        )
