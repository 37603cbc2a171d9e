"""`llmplug rank`: one rank, started by an engine's process or by `llmplug join`; never by hand."""

from __future__ import annotations

import argparse
import gc

NAME = "rank"
HELP = argparse.SUPPRESS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take nothing beside an engine: all arrives by the socket that stands where stdin does.

    On another machine take a config, and which rank it is.
    """
    from llmplug.cli.arguments import add_config

    add_config(parser, required=False)
    parser.add_argument("--model")
    parser.add_argument("--node", type=int)
    parser.add_argument("--place", type=int)


def run(args: argparse.Namespace) -> int:
    """Compute what rank 0 says until it goes away."""
    gc.disable()  # while it imports
    from llmplug import processes

    if args.config is None:
        processes.run_rank_process()
    from llmplug import logs
    from llmplug.cli.arguments import read_config
    from llmplug.engine.ranks.link import end_with_stdin

    end_with_stdin()
    config = read_config(args)
    logs.set_up(config.log.level, config.log.format, model=args.model)
    (model,) = [model for model in config.models if model.name == args.model]
    processes.run_joined_rank(config, model, args.node, args.place)
