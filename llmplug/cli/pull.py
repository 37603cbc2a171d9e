"""`llmplug pull`: fetch a config's models without serving them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmplug.plan import Choice

NAME = "pull"
HELP = "fetch the models of a config, and verify them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take a config or a source."""
    from llmplug.cli.arguments import add_config_or_source

    add_config_or_source(parser)


def run(args: argparse.Namespace) -> int:
    """Fetch each source and print where it lies."""
    from llmplug import assemble
    from llmplug.cli.arguments import read_config_or_source
    from llmplug.cli.terminal import TerminalProgress, write

    config = read_config_or_source(args)
    registry = assemble.load_registry(config)
    with TerminalProgress() as progress:
        for model in config.models:
            choices: list[Choice] = []
            path = assemble.resolve_source(model.source, registry, progress, choices)
            write(f"{model.name}: {path} ({choices[-1].why})")
    return 0
