"""`llmplug check`: print every choice that a start would make, and why; load no weight."""

from __future__ import annotations

import argparse

NAME = "check"
HELP = "print every choice that a start would make, and why, before any weight loads"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take a config."""
    from llmplug.cli.arguments import add_config

    add_config(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Plan each model and print the plan."""
    from llmplug import assemble
    from llmplug.cli.arguments import read_config
    from llmplug.cli.terminal import TerminalProgress, format_table, write, write_json

    config = read_config(args)
    registry = assemble.load_registry(config)
    with TerminalProgress() as progress:
        plans = [assemble.plan_model(model, registry, progress) for model in config.models]
    if args.json:
        write_json([plan.as_json() for plan in plans])
        return 0
    for plan in plans:
        rows = [(line.topic, line.chosen, line.why) for line in plan.report()]
        write("\n".join([plan.name, *format_table([("choice", "is", "because"), *rows])]))
    for plugin in registry.report.problems:
        write(f"warning: {plugin}")
    return 0
