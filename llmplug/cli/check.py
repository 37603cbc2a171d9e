"""`llmplug check`: print every choice that a start would make, why, and what else there is.

No weight is loaded.
"""

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
    from llmplug.providers import list_parts

    config = read_config(args)
    registry = assemble.load_registry(config)
    with TerminalProgress() as progress:
        plans = [assemble.plan_model(model, registry, progress) for model in config.models]
    parts = [list_parts(plan, registry) for plan in plans]
    if args.json:
        each = zip(plans, parts, strict=True)
        write_json([{**plan.as_json(), "parts": [p.as_json() for p in own]} for plan, own in each])
        return 0
    for plan, own in zip(plans, parts, strict=True):
        choices = [(line.topic, line.chosen, line.why) for line in plan.report()]
        rows = [(part.kind, part.name, part.plugin or "-", part.successor) for part in own]
        write("\n".join([plan.name, *format_table([("choice", "is", "because"), *choices])]))
        heading = ("part", "is", "of the plugin", "without that")
        write("\n".join(["", *format_table([heading, *rows]), ""]))
    for plugin in registry.report.problems:
        write(f"warning: {plugin}")
    return 0
