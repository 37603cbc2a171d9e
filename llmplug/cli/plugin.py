"""`llmplug plugin new KIND NAME`: write a plugin that works, to change it into yours."""

from __future__ import annotations

import argparse
from pathlib import Path

NAME = "plugin"
HELP = "write a new plugin: llmplug plugin new sampler acme-sampler"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take what to write, and where."""
    from llmplug.skeletons import KINDS

    verbs = parser.add_subparsers(dest="verb", metavar="new", required=True)
    new = verbs.add_parser("new", help="write a distribution with a plugin, its tests and its CI")
    new.add_argument("kind", choices=sorted(KINDS), metavar="KIND", help=", ".join(sorted(KINDS)))
    new.add_argument("name", metavar="NAME", help="of the distribution: acme-sampler")
    new.add_argument(
        "--folder", metavar="FOLDER", help="where to write it; NAME in this folder otherwise"
    )


def run(args: argparse.Namespace) -> int:
    """Write it, and say what to do next."""
    from llmplug.cli.terminal import write
    from llmplug.skeletons import write_plugin

    folder = Path(args.folder or args.name)
    for path in write_plugin(args.kind, args.name, folder):
        write(str(path))
    write(f"\ncd {folder} && pip install -e '.[test]' && pytest")
    return 0
