"""`llmplug join`: this machine's ranks of models that are spread over several."""

from __future__ import annotations

import argparse
import signal

NAME = "join"
HELP = "run this machine's part of models that are spread over several"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take the config of the server, and which of its machines this is."""
    from llmplug.cli.arguments import add_config

    add_config(parser)
    parser.add_argument(
        "--node",
        metavar="N",
        type=int,
        required=True,
        help="number of this machine, from 1 on; the server's is 0",
    )


def run(args: argparse.Namespace) -> int:
    """Keep the ranks running until SIGTERM or Ctrl-C."""
    from llmplug import logs, rank_plan
    from llmplug.assemble import load_registry
    from llmplug.cli.arguments import read_config
    from llmplug.rank_keeper import RankKeeper

    config = read_config(args)
    logs.set_up(config.log.level, config.log.format)
    load_registry(config)  # mistakes of plugins are told before anything starts
    for model in config.models:
        rank_plan.check_meeting(model)
    sets = [word for each in args.sets for word in ("--set", each)]
    keeper = RankKeeper(config, ["--config", args.config, *sets], args.node)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: keeper.stop())
    keeper.run()
    return 0
