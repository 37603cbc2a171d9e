"""`llmplug config`: where each value of a config comes from, and what a config may hold."""

from __future__ import annotations

import argparse

NAME = "config"
HELP = "explain a config, or print the schema of all configs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take `explain --config FILE` or `schema`."""
    from llmplug.cli.arguments import add_config

    actions = parser.add_subparsers(metavar="ACTION", required=True, dest="action")
    explain = actions.add_parser("explain", help="print each value and where it came from")
    add_config(explain)
    explain.add_argument("--json", action="store_true", help="print JSON")
    actions.add_parser(
        "schema", help="print the JSON schema of a config file, with what installed plugins take"
    )


def run(args: argparse.Namespace) -> int:
    """Print it; secrets are not shown."""
    from llmplug.cli.arguments import read_config
    from llmplug.cli.terminal import format_table, write, write_json
    from llmplug.config import explain, schema

    if args.action == "schema":
        from llmplug.plugins import load_all

        write_json(schema(load_all().plugins))
        return 0
    from llmplug.assemble import load_plugins

    config = read_config(args)
    rows = explain(config, load_plugins(config).plugins)
    if args.json:
        write_json([{"key": row.key, "value": row.value, "origin": row.origin} for row in rows])
    else:
        heading = ("KEY", "VALUE", "ORIGIN")
        write("\n".join(format_table([heading, *((r.key, r.value, r.origin) for r in rows)])))
    return 0
