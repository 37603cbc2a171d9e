"""`llmplug deploy`: serve a config from the nodes of a Ray cluster."""

from __future__ import annotations

import argparse
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmplug.config import Config

NAME = "deploy"
HELP = "serve a config from the nodes of a Ray cluster (needs llmplug[ray])"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take a config, and where the cluster is."""
    from llmplug.cli.arguments import add_config

    add_config(parser)
    parser.add_argument(
        "--address",
        help="of a cluster, where the application runs on; left out: Ray is started on this "
        "machine, and ends with this command",
    )
    parser.add_argument("--name", default="llmplug", help="of the application (%(default)s)")
    parser.add_argument(
        "--remove", action="store_true", help="drain and end the application of this name"
    )


def run(args: argparse.Namespace) -> int:
    """Deploy, or replace what runs under this name without an end to its streams."""
    from llmplug.cli.arguments import read_config
    from llmplug.cli.terminal import write
    from llmplug.deploy.needs import list_spread_models
    from llmplug.errors import ConfigError

    config = read_config(args)
    if args.remove and args.address is None:
        raise ConfigError("--remove goes with --address: without it nothing runs yet")
    if args.address is None and (spread := list_spread_models(config)):
        raise ConfigError(
            f"models.{spread[0]}.parallel.nodes goes with --address: this machine is one node"
        )
    try:
        from llmplug.deploy import cluster
    except ImportError as error:
        if error.name not in {"aiohttp", "ray"}:
            raise
        raise ConfigError("llmplug deploy needs Ray: pip install 'llmplug[ray]'") from error
    with cluster.joined(args.address):
        if args.remove:
            cluster.remove(args.name)
            return 0
        cluster.check_plugins()
        _deploy(config, args)
        scheme = "https" if config.server.tls is not None else "http"
        write(f"{args.name} answers at {scheme}://{config.server.host}:{config.server.port}")
        if args.address is None:
            with suppress(KeyboardInterrupt):
                signal.pause()
    return 0


def _deploy(config: Config, args: argparse.Namespace) -> None:
    from llmplug.deploy import cluster
    from llmplug.deploy.application import make_application
    from llmplug.deploy.plugin_lists import list_plugins
    from llmplug.deploy.source import make_source

    text = Path(args.config).read_text(encoding="utf-8")
    source = make_source(text, args.sets, os.getcwd())
    application = make_application(config, source, list_plugins())
    cluster.deploy(application, args.name, config.server)
