"""A replica as Ray knows it: one server of its own, asked over loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp
from multidict import CIMultiDict
from prometheus_client.parser import text_string_to_metric_families
from yarl import URL

from llmplug.deploy.group import Group
from llmplug.deploy.messages import ForwardedRequest, ReplyHead, end_to_end
from llmplug.deploy.plugin_lists import PluginList, check_here
from llmplug.deploy.scaling import CACHE_SHARE
from llmplug.deploy.server import ServerProcess
from llmplug.errors import EngineUnavailable

if TYPE_CHECKING:
    from llmplug.deploy.needs import Bundle
    from llmplug.deploy.source import ServerSource

READY_POLL_S = 0.2  # between two questions whether a server that starts is ready
PROBE_TIMEOUT_S = 10.0  # an answer that takes longer is none
# aiohttp adds these to what it sends; a request is passed on as it came.
_ADDED_HEADERS = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


@dataclass(frozen=True, slots=True)
class ReplicaSettings:
    """What every replica of a deployment is made with.

    Attributes:
        plugins: of the machine that deploys; a node with others runs no replica.
        stop_s: how long a server may take to end.
        bundles: what a server takes of each of its nodes; this replica is on the first.
        spread_models: those with ranks on several nodes, by their place in the config.
    """

    source: ServerSource
    plugins: PluginList
    stop_s: float
    bundles: tuple[Bundle, ...]
    spread_models: tuple[int, ...]


class Replica:
    """Starts a server when Ray makes it, answers for it, and ends it when Ray lets go."""

    async def __init__(self, settings: ReplicaSettings) -> None:  # type: ignore[misc]  # Ray awaits
        check_here(settings.plugins)
        self._stop_s = settings.stop_s
        self._group = Group(settings.spread_models)
        self._group.start(settings.source, settings.plugins, settings.bundles)
        self._server = await asyncio.to_thread(
            ServerProcess, settings.source, self._group.sets, self._group.environment
        )
        self._http = aiohttp.ClientSession(
            self._server.url,
            auto_decompress=False,
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_ADDED_HEADERS,
            timeout=aiohttp.ClientTimeout(total=None),
        )
        try:
            while not await self._is_ready():  # noqa: ASYNC110 - the server tells nobody
                await asyncio.sleep(READY_POLL_S)
        except BaseException:
            await self._stop()
            raise

    async def forward(self, request: ForwardedRequest) -> AsyncGenerator[ReplyHead | bytes, None]:
        """Ask the server; yield the head of its reply, then its body as it comes.

        Whoever stops to listen ends the request, and with it what the server does for it.
        """
        headers = CIMultiDict(
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in end_to_end(request.headers)
        )
        async with self._http.request(
            request.method,
            URL(request.target, encoded=True),
            headers=headers,
            data=request.body or None,
            allow_redirects=False,
        ) as reply:
            yield ReplyHead(reply.status, end_to_end(reply.raw_headers))
            async for chunk in reply.content.iter_any():
                yield chunk

    async def check_health(self) -> None:
        """Raise unless the server is ready; Ray replaces a replica that is not, three times."""
        if not await self._is_ready():
            raise EngineUnavailable("/ready is red")

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Tell Ray how full the cache of keys and values is, of the fullest model."""
        try:
            status, text = await self._get("/metrics")
        except (aiohttp.ClientError, TimeoutError):
            return {}
        return {CACHE_SHARE: read_cache_share(text)} if status == 200 else {}

    async def __del__(self) -> None:
        """Drain and end the server; Ray calls this when no request is left, or time is up."""
        await self._stop()

    async def _stop(self) -> None:
        if hasattr(self, "_server"):  # else its making was refused
            await asyncio.to_thread(self._server.stop, self._stop_s)
        if hasattr(self, "_group"):
            await self._group.stop()
        if hasattr(self, "_http"):
            await self._http.close()

    async def _is_ready(self) -> bool:
        """Ask whether requests are answered.

        Raises:
            EngineUnavailable: the server has ended, or one of its nodes is lost.
        """
        self._server.check_alive()
        self._group.check_alive()
        try:
            status, _ = await self._get("/ready")
        except (aiohttp.ClientError, TimeoutError):
            return False
        return status == 200

    async def _get(self, path: str) -> tuple[int, str]:
        async with asyncio.timeout(PROBE_TIMEOUT_S), self._http.get(path) as reply:
            return reply.status, await reply.text()


def read_cache_share(metrics: str) -> float:
    """Find the share of the cache that is in use, of the model whose cache is fullest."""
    counts: dict[str, dict[str, float]] = {
        "llmplug_cache_pages_used": {},
        "llmplug_cache_pages": {},
    }
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples if family.name in counts else ():
            counts[family.name][sample.labels["model"]] = sample.value
    used, pages = counts.values()
    return max((used[model] / of for model, of in pages.items() if of), default=0.0)
