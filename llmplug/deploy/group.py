"""The nodes of one server whose models have ranks on several: all there, or the server is lost."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from llmplug.deploy.ports import hold_port
from llmplug.deploy.rank_host import RankHost, RankHostSettings
from llmplug.errors import EngineUnavailable

if TYPE_CHECKING:
    from llmplug.deploy.needs import Bundle
    from llmplug.deploy.plugin_lists import PluginList
    from llmplug.deploy.source import ServerSource

log = logging.getLogger("ray.serve")
SECRET = "LLMPLUG_RANKS_SECRET"  # noqa: S105 - the name of a variable
SECRET_BYTES = 32
END_S = 5.0  # for ranks whose engine has ended


class Group:
    """Where the ranks of a server meet, and who runs those of other nodes.

    Args:
        spread_models: those with ranks on several nodes, by their place in the config.

    Attributes:
        sets: overrides that say where they meet, for all nodes.
        environment: by what they know each other.
    """

    def __init__(self, spread_models: Sequence[int]) -> None:
        address = ray.util.get_node_ip_address()
        self._ports = {index: hold_port(address) for index in spread_models}
        self._hosts: list[Any] = []  # handles of RankHost
        self._watchers: list[asyncio.Task[None]] = []
        self._lost: str | None = None
        name = f"[{address}]" if ":" in address else address
        self.sets = tuple(
            line
            for index, port in self._ports.items()
            for line in (
                f"models.{index}.parallel.address={name}:{port.getsockname()[1]}",
                f"models.{index}.parallel.secret=${{{SECRET}}}",
            )
        )
        self.environment = {SECRET: secrets.token_urlsafe(SECRET_BYTES)} if self._ports else {}

    def start(self, source: ServerSource, plugins: PluginList, bundles: Sequence[Bundle]) -> None:
        """Have the ranks of all other nodes started; they wait for the server.

        Args:
            bundles: what is taken of each node, in the order of this replica's placement group.
        """
        settings = RankHostSettings(source, self.sets, self.environment, plugins)
        for node in range(1, len(bundles)):
            where = PlacementGroupSchedulingStrategy(
                placement_group=ray.util.get_current_placement_group(),
                placement_group_bundle_index=node,
            )
            actor = ray.remote(RankHost).options(
                num_cpus=bundles[node].num_cpus,
                num_gpus=bundles[node].num_gpus,
                scheduling_strategy=where,
            )
            host = actor.remote(settings, node)
            self._hosts.append(host)
            self._watchers.append(asyncio.create_task(self._watch(host, node)))

    def check_alive(self) -> None:
        """Raise if a node is lost: the server cannot do without, and Ray is to replace it whole.

        Raises:
            EngineUnavailable: one is; the message says which, and why.
        """
        if self._lost is not None:
            raise EngineUnavailable(self._lost)

    async def stop(self) -> None:
        """End the ranks of other nodes; again does nothing."""
        for watcher in self._watchers:
            watcher.cancel()
        hosts, self._hosts = self._hosts, []
        ends = [host.stop.remote(END_S) for host in hosts]
        await asyncio.gather(*ends, return_exceptions=True)  # some are gone already
        for host in hosts:
            ray.kill(host)
        for port in self._ports.values():
            port.close()

    async def _watch(self, host: Any, node: int) -> None:
        try:
            reason = await host.wait_end.remote()
        except RayError as error:
            reason = str(error).strip()
        self._lost = f"node {node} of this server is lost: {reason}"
        log.error(self._lost)
