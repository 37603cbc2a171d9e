"""`llmplug check`: print every choice that a start would make, and why; load no weight."""

from __future__ import annotations

import argparse
import json

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
    from llmplug.cli.terminal import TerminalProgress

    config = read_config(args)
    registry = assemble.load_registry(config)
    progress = TerminalProgress()
    plans = [assemble.plan_model(model, registry, progress) for model in config.models]
    if args.json:
        print(json.dumps([plan.as_json() for plan in plans], indent=2))  # noqa: T201
        return 0
    for plan in plans:
        print_report(plan)
    for plugin in registry.report.problems:
        print(f"warning: {plugin}")  # noqa: T201
    return 0
