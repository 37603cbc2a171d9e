"""Several engines of one model as one: each request goes to one of them, by `routing.py`.

An engine that dies is started again by its client. Its requests that had sent nothing move to a
living one at once, or to the first that lives again; the others end. A request that was in two
batches when their engines died is not asked a third time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING

from llmplug.engine.block_pool import extend_digests
from llmplug.engine.counted_stats import add_stats
from llmplug.engine.pending_requests import MAX_DEATHS, NothingSent, make_suspect_error
from llmplug.errors import EngineUnavailable
from llmplug.server.engine_connection import MISTAKES, STALL_S, ReplicaState
from llmplug.server.replicas.replica import Replica
from llmplug.server.replicas.routing import MAX_PAGES, Candidate, Reason, Route, choose_route

if TYPE_CHECKING:
    from llmplug.engine.client import EngineClient, EngineEvent, OnEvent
    from llmplug.types import (
        EngineLoading,
        EngineReady,
        EngineStats,
        GenerateRequest,
        PoolRequest,
        PoolResult,
        SequenceDelta,
    )

log = logging.getLogger("llmplug.server")

ChooseRoute = Callable[[Sequence[Candidate], int], Route]
_ALIVE = ("ready", "loading", "dead")  # the best first; `dead`: it is started again


class ReplicaSet:
    """The engines of one model.

    Args:
        name: of the model, for the log.
        clients: of engines that are told the same, made with `keeps_unsent=False`.
        shares_prefixes: whether the engines keep what prompts begin with.
        choose: which of those that could be asked is.
    """

    def __init__(
        self,
        name: str,
        clients: Sequence[EngineClient],
        *,
        shares_prefixes: bool = True,
        choose: ChooseRoute = choose_route,
    ) -> None:
        self.on_event: OnEvent = lambda event, why: None
        self.failure: Exception | None = None
        self._name = name
        self._shares_prefixes = shares_prefixes
        self._choose = choose
        self._replicas = [Replica(i, client) for i, client in enumerate(clients)]
        self._asked: dict[str, Replica] = {}  # request id -> who has it
        self._turn = asyncio.Event()  # set, and another put in its place, when one comes or goes
        self._starts: list[asyncio.Task[EngineReady]] = []
        for replica in self._replicas:
            replica.client.on_event = partial(self._note, replica)

    @property
    def state(self) -> str:
        """`ready` while one is; else of those that are not gone; else `failed` or `dead`."""
        states = {each.client.state for each in self._replicas if not each.is_gone}
        known = [state for state in _ALIVE if state in states]
        return known[0] if known else self._replicas[0].client.state

    @property
    def loading(self) -> EngineLoading | None:
        """The last progress of the first that loads."""
        loading = (each.client for each in self._replicas if each.client.state == "loading")
        return next((client.loading for client in loading), None)

    @property
    def stats(self) -> EngineStats | None:
        """The sum of all; what dead processes had counted stays in it."""
        if all(each.client.ready is None for each in self._replicas):
            return None
        return add_stats(*(each.client.counted.total for each in self._replicas))

    @property
    def stalled_s(self) -> float:
        """Of the engine that moved last: one that moves is enough."""
        ready = [each.client.stalled_s for each in self._replicas if each.client.state == "ready"]
        return min(ready, default=0.0)

    @property
    def replicas(self) -> Sequence[ReplicaState]:
        """How each of them is."""
        return [each.describe() for each in self._replicas]

    async def start(self) -> None:
        """Start all of them."""
        await asyncio.gather(*(each.client.start() for each in self._replicas))
        self._starts = [asyncio.create_task(each.client.wait_ready()) for each in self._replicas]

    async def wait_ready(self) -> EngineReady:
        """Wait until each of them takes requests, or has failed; the first that is ready serves.

        Raises:
            LlmplugError: why none can, or what only a change of the config can mend.
        """
        await asyncio.wait(self._starts)
        failures = []
        for number, start in enumerate(self._starts):
            error = start.exception()
            if isinstance(error, MISTAKES):
                raise error
            if error is not None:
                log.error("replica %d of %s cannot start: %s", number, self._name, error)
                failures.append(error)
        if len(failures) == len(self._starts):
            raise failures[0]
        return next(start.result() for start in self._starts if start.exception() is None)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[SequenceDelta, None]:
        """Run one request on one of them; closing the iterator aborts it.

        Raises:
            LlmplugError: it was refused, or failed, or no engine can be asked.
        """
        digests = self._find_digests(request)
        for num_deaths in range(MAX_DEATHS):
            replica, reason = await self._find(digests, has_moved=num_deaths > 0)
            self._asked[request.request_id] = replica
            try:
                with replica.asked(len(request.prompt_ids), digests, reason) as load:
                    async with aclosing(replica.client.generate(request)) as deltas:
                        async for delta in deltas:
                            load.add(len(delta.token_ids))
                            yield delta
                return
            except NothingSent:
                continue
            finally:
                del self._asked[request.request_id]
        raise make_suspect_error()

    async def pool(self, request: PoolRequest) -> PoolResult:
        """Have a vector made of each text by one of them.

        Raises:
            LlmplugError: it was refused, or failed, or no engine can be asked.
        """
        num_tokens = sum(map(len, request.prompts))
        for num_deaths in range(MAX_DEATHS):
            replica, reason = await self._find((), has_moved=num_deaths > 0)
            try:
                with replica.asked(num_tokens, (), reason):
                    return await replica.client.pool(request)
            except NothingSent:
                continue
        raise make_suspect_error()

    async def abort(self, request_id: str, index: int | None = None) -> None:
        """End a request, or one of its sequences."""
        replica = self._asked.get(request_id)
        if replica is not None:
            await replica.client.abort(request_id, index)

    async def stop(self) -> None:
        """Stop all of them."""
        await asyncio.gather(*(each.client.stop() for each in self._replicas))
        await asyncio.gather(*self._starts, return_exceptions=True)
        for replica in self._replicas:
            replica.is_gone = True
        self._tell_turn()

    def dump_stacks(self) -> None:
        """Have each process write its stacks to stderr; from any thread."""
        for replica in self._replicas:
            replica.client.dump_stacks()

    def _find_digests(self, request: GenerateRequest) -> list[bytes]:
        """Name the pages of a prompt's beginning, as the engines do."""
        ready = next((each.client.ready for each in self._replicas if each.client.ready), None)
        digests: list[bytes] = []
        if self._shares_prefixes and ready is not None:
            start = request.prompt_ids[: MAX_PAGES * ready.page_size]
            extend_digests(digests, start, ready.page_size, request.cache_salt)
        return digests

    async def _find(self, digests: Sequence[bytes], *, has_moved: bool) -> tuple[Replica, Reason]:
        """Choose who is asked.

        Args:
            has_moved: the request was with one that died: it waits, if need be.
        Raises:
            EngineUnavailable: nobody can be.
        """
        while not (ready := self._list_ready()):
            if not has_moved or all(each.is_gone for each in self._replicas):
                raise EngineUnavailable(f"The engine is {self.state}; try again later.")
            await self._turn.wait()
        candidates = [each.consider(digests) for each in ready]
        route = self._choose(candidates, len(digests))
        return self._replicas[route.number], "moved" if has_moved else route.reason

    def _list_ready(self) -> list[Replica]:
        """Those that could be asked; one that stands still only if all do."""
        ready = [each for each in self._replicas if each.client.state == "ready"]
        return [each for each in ready if each.client.stalled_s < STALL_S] or ready

    def _note(self, replica: Replica, event: EngineEvent, why: str) -> None:
        """One of them has come up, died, or is gone."""
        if event == "ready":
            replica.begin()
        else:
            self.failure = replica.client.failure
            replica.is_gone = event == "gone"
        self.on_event(event, f"replica {replica.number}: {why}" if why else "")
        self._tell_turn()

    def _tell_turn(self) -> None:
        """Wake up those that wait for an engine."""
        turn, self._turn = self._turn, asyncio.Event()
        turn.set()
