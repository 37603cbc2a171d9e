"""SIGKILL for the processes of a server, and how long it takes them to come back."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx

from benchmarks.processes import list_roles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOOK_S = 0.05  # between two looks at whether it is back
SLACK_S = 1.0  # an answer takes its time from the server to the client


@dataclass(slots=True)
class Killer:
    """Kills the processes of one server; times are of the monotonic clock."""

    pid: int  # of `llmplug serve`
    http: httpx.AsyncClient
    engine_kills: list[float] = field(default_factory=list)
    http_kills: list[float] = field(default_factory=list)
    downtimes: list[tuple[float, float]] = field(default_factory=list)  # from a kill until ready

    async def run(
        self,
        has_ended: Callable[[], bool],
        engine_every_s: float,
        http_every_s: float,
        rng: random.Random,
    ) -> None:
        """Kill about that often until it has ended; 0: never."""
        async with asyncio.TaskGroup() as group:
            for find, kills, every_s in (
                (find_engine, self.engine_kills, engine_every_s),
                (find_http, self.http_kills, http_every_s),
            ):
                if every_s:
                    group.create_task(
                        self._repeat(find, kills, draw_pauses(every_s, rng), has_ended)
                    )

    async def _repeat(
        self,
        find: Callable[[int], int | None],
        kills: list[float],
        pauses_s: Iterator[float],
        has_ended: Callable[[], bool],
    ) -> None:
        for pause_s in pauses_s:
            await asyncio.sleep(pause_s)
            if has_ended():
                return
            if find is find_engine:  # killed five times while it loads, one is given up
                await self.wait_ready()
            await self.kill(find, kills)

    async def kill(self, find: Callable[[int], int | None], kills: list[float]) -> None:
        """Kill what is found, note when, and wait until the server is ready again."""
        victim = find(self.pid)
        if victim is None:
            return
        kills.append(time.monotonic())
        os.kill(victim, signal.SIGKILL)
        await self._wait_status(lambda status: status != httpx.codes.OK)
        await self.wait_ready()
        self.downtimes.append((kills[-1], time.monotonic()))

    def was_down(self, since: float, until: float) -> bool:
        """Whether the server was on its way back at some time of these, or just about it.

        A refusal may be read a while after it was sent: by then the server can be ready.
        """
        return any(start <= until and since <= end + SLACK_S for start, end in self.downtimes)

    async def wait_ready(self) -> None:
        """Wait until the server says that it is ready."""
        await self._wait_status(lambda status: status == httpx.codes.OK)

    async def _wait_status(self, is_good: Callable[[int], bool]) -> None:
        while not is_good(await self._ask_ready()):  # noqa: ASYNC110 - of another process
            await asyncio.sleep(LOOK_S)

    async def _ask_ready(self) -> int:
        """The status of /ready; 0: the connection broke."""
        with suppress(httpx.TransportError):
            return (await self.http.get("/ready")).status_code
        return 0


def draw_pauses(every_s: float, rng: random.Random) -> Iterator[float]:
    """Yield pauses that are as long in the mean, for ever."""
    while True:
        yield every_s * rng.uniform(0.5, 1.5)


def find_engine(pid: int) -> int | None:
    """The process that owns the model; None: there is none right now."""
    engines = [member for member, role in list_roles(pid) if role == "engine"]
    return engines[0] if engines else None


def find_http(pid: int) -> int | None:
    """The process that speaks HTTP, child of the one that was started; None: there is none."""
    members = [member for member, role in list_roles(pid) if role == "server"]
    return members[1] if len(members) > 1 else None
