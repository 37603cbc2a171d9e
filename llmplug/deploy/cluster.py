"""A cluster of Ray: join one or start one here, look at its nodes, deploy to it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from llmplug.deploy.plugin_lists import PluginList, compare, list_plugins
from llmplug.errors import ConfigError, PluginError

if TYPE_CHECKING:
    from ray.serve import Application

    from llmplug.config import ServerConfig

OBJECT_STORE_BYTES = 256 * 2**20  # of a cluster that we start: bodies of requests are all it holds
LISTING_TIMEOUT_S = 120.0  # for a node to start a process and say what it has


@contextmanager
def joined(address: str | None) -> Iterator[None]:
    """Be part of a cluster while the block runs.

    Args:
        address: of a cluster that runs on when we leave; None: one of this machine alone, which
            ends with the block.
    Raises:
        ConfigError: there is no cluster at the address.
    """
    options: dict[str, Any] = {"address": address}
    if address is None:
        # Ray tells its makers of each cluster that it starts; nobody here asked for that.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options = {"object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
    try:
        ray.init(logging_level="warning", **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"no cluster of Ray at {address or 'this machine'}: {error}") from error
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C; Ray's own aborts
    try:
        yield
    finally:
        if address is None:
            serve.shutdown()
        ray.shutdown()


def list_plugins_of_nodes() -> dict[str, PluginList]:
    """Ask each node that is alive for its plugins.

    Raises:
        PluginError: one has no llmplug that could answer.
    """
    asked = {}
    for node in ray.nodes():
        if not node["Alive"]:
            continue
        where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ask = ray.remote(list_plugins).options(num_cpus=0, max_retries=0, scheduling_strategy=where)
        asked[f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})"] = ask.remote()
    lists: dict[str, PluginList] = {}
    for name, answer in asked.items():
        try:
            lists[name] = ray.get(answer, timeout=LISTING_TIMEOUT_S)
        except RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise PluginError(f"node {name} cannot list its plugins: {reason}") from error
    return lists


def check_plugins() -> None:
    """Raise unless all nodes, and this process, have the same plugins.

    Raises:
        PluginError: they have not; the message names plugins and nodes.
    """
    differences = compare({"here": list_plugins(), **list_plugins_of_nodes()})
    if differences:
        lines = "".join(f"\n  {line}" for line in differences)
        raise PluginError(f"the nodes of the cluster have different plugins:{lines}")


def deploy(application: Application, name: str, settings: ServerConfig) -> None:
    """Run an application, or replace the one of this name, and wait until it is well.

    Raises:
        ConfigError: it does not come up.
    """
    serve.start(http_options=make_http_options(settings))
    try:
        serve.run(application, name=name, route_prefix="/")
    except RuntimeError as error:
        raise ConfigError(f"{name} does not come up: {error}") from error


def make_http_options(settings: ServerConfig) -> dict[str, Any]:
    """Describe where Ray's proxies listen, on every node, as the config says of a server."""
    options: dict[str, Any] = {"host": settings.host, "port": settings.port}
    if settings.tls is not None:
        options["ssl_certfile"] = settings.tls.certificate
        options["ssl_keyfile"] = settings.tls.private_key
    return options


def remove(name: str) -> None:
    """Drain and end an application.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in serve.status().applications:
        raise ConfigError(f"no application {name!r} runs on this cluster")
    serve.delete(name)
