"""An engine that runs while it is wanted: a request wakes it, and silence lets it fall asleep."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

from llmplug.errors import EngineUnavailable

if TYPE_CHECKING:
    from llmplug.engine.client import OnEvent
    from llmplug.server.engine_connection import EngineConnection, ReplicaState
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

# A start that failed is not tried again before; requests are refused meanwhile. Each try costs a
# process and the reading of weights, and who asks does not know that.
RETRY_S = 30.0


class EngineOnDemand:
    """Starts an engine for a request, and stops it when none came for a while.

    Requests that come while it starts share one start, and wait for it.

    Args:
        name: of the model, for the log.
        connect: makes an engine, not started yet; called for every start.
        first: the engine of the first start, which does not wait for a request then.
        keep_alive_s: without a request, until the engine is stopped; None: it stays.
        on_asleep: called when an engine was stopped for that.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[], EngineConnection],
        *,
        first: EngineConnection | None = None,
        keep_alive_s: float | None = None,
        on_asleep: Callable[[], Awaitable[None]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.failure: Exception | None = None
        self.on_event: OnEvent = lambda event, why: None
        self._name = name
        self._connect = connect
        self._first = first
        self._keep_alive_s = keep_alive_s
        self._on_asleep = on_asleep
        self._clock = clock
        self._failed_at = 0.0
        self._engine: EngineConnection | None = None  # None: it sleeps
        self._ready: EngineReady | None = None
        self._has_woken = asyncio.Event()
        self._waking: asyncio.Task[None] | None = None
        self._retiring: asyncio.Task[None] | None = None
        self._change = asyncio.Lock()  # a start waits for the stop before it: both take memory
        self._timer: asyncio.TimerHandle | None = None
        self._num_open = 0  # requests
        self._is_stopping = False

    @property
    def state(self) -> str:
        """The engine's; `asleep`: the next request starts it; `waking`: one does.

        `failed`: it could not be started, last; a later request tries again.
        """
        if self._waking is not None:
            return "waking" if self._first is None else "loading"
        if self._is_stopping:
            return "dead"
        if self._engine is None:
            return "asleep" if self.failure is None else "failed"
        return self._engine.state

    @property
    def loading(self) -> EngineLoading | None:
        """The last progress while it loads."""
        return None if self._engine is None else self._engine.loading

    @property
    def stats(self) -> EngineStats | None:
        """Gauges and counters of the last step; None while it sleeps."""
        return None if self._engine is None else self._engine.stats

    @property
    def stalled_s(self) -> float:
        """Seconds since its last step, while there is work for it; else 0."""
        engine = self._engine
        return 0.0 if engine is None else engine.stalled_s

    @property
    def replicas(self) -> Sequence[ReplicaState]:
        """Those of the engine; none while it sleeps."""
        return () if self._engine is None else self._engine.replicas

    async def start(self) -> None:
        """Start the first engine, if one is to run before there is a request."""
        if self._first is not None:
            self._waking = asyncio.create_task(self._start(self._first))

    async def wait_ready(self) -> EngineReady:
        """Wait until an engine was ready for the first time.

        Raises:
            Exception: the one that was to run before there is a request cannot.
        """
        if self._waking is not None and self._first is not None:
            await asyncio.wait({self._waking})
            if self.failure is not None:
                raise self.failure
        await self._has_woken.wait()
        if self._ready is None:
            raise EngineUnavailable("the engine is stopped")
        return self._ready

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[SequenceDelta, None]:
        """Run one request, on an engine that is woken first; closing the iterator aborts it.

        Raises:
            LlmplugError: it was refused, or failed, or the engine cannot be started.
        """
        async with self._awake() as engine, aclosing(engine.generate(request)) as deltas:
            async for delta in deltas:
                yield delta

    async def pool(self, request: PoolRequest) -> PoolResult:
        """Have a vector made of each text, by an engine that is woken first.

        Raises:
            LlmplugError: it was refused, or failed, or the engine cannot be started.
        """
        async with self._awake() as engine:
            return await engine.pool(request)

    async def abort(self, request_id: str, index: int | None = None) -> None:
        """End a request, or one of its sequences."""
        if self._engine is not None:
            await self._engine.abort(request_id, index)

    def dump_stacks(self) -> None:
        """Have the engine's process write its stacks to stderr; from any thread."""
        engine = self._engine
        if engine is not None:
            engine.dump_stacks()

    async def stop(self) -> None:
        """Stop the engine, and start none any more."""
        self._is_stopping = True
        self._stay_awake()
        if self._engine is not None:
            await self._engine.stop()
        changing = [task for task in (self._waking, self._retiring) if task is not None]
        await asyncio.gather(*changing, return_exceptions=True)
        self._engine = None

    @asynccontextmanager
    async def _awake(self) -> AsyncIterator[EngineConnection]:
        """Keep the engine awake; it may fall asleep some time after the last of these."""
        self._num_open += 1
        self._stay_awake()
        try:
            yield await self._wake()
        finally:
            self._num_open -= 1
            self._plan_sleep()

    async def _wake(self) -> EngineConnection:
        if self._engine is None and self._waking is None and self._may_try():
            log.info("a request wakes the engine of %s", self._name)
            self._waking = asyncio.create_task(self._start(self._connect()))
        if self._waking is not None:
            await asyncio.wait({self._waking})  # it goes on if this request is given up
        if self._engine is None:
            raise EngineUnavailable(
                "The engine of this model cannot be started; the server's log says why. Try again "
                "later."
            )
        return self._engine

    def _may_try(self) -> bool:
        has_just_failed = self.failure is not None and self._clock() - self._failed_at < RETRY_S
        return not (self._is_stopping or has_just_failed)

    async def _start(self, engine: EngineConnection) -> None:
        """Start an engine; what becomes of it is told by `_engine` and `failure`."""
        async with self._change:
            self._engine, self.failure = engine, None
            try:
                if self._is_stopping:
                    raise EngineUnavailable("the server shuts down")
                engine.on_event = self.on_event
                await engine.start()
                self._ready = await engine.wait_ready()
                self._has_woken.set()
                log.info("the engine of %s is awake", self._name)
            except Exception as error:  # noqa: BLE001 - whatever it is, who waits must be told
                if not self._is_stopping:
                    log.error("the engine of %s cannot start: %s", self._name, error)
                self.failure, self._failed_at = error, self._clock()
                self._engine = None
                await engine.stop()
            self._waking = self._first = None
        self._plan_sleep()

    def _plan_sleep(self) -> None:
        if self._keep_alive_s is None or self._num_open or self._is_stopping:
            return
        if self._engine is not None and self._waking is None:
            self._stay_awake()
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._keep_alive_s, self._fall_asleep)

    def _stay_awake(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fall_asleep(self) -> None:
        engine, self._engine, self._timer = self._engine, None, None
        if engine is not None:
            self._retiring = asyncio.create_task(self._retire(engine))

    async def _retire(self, engine: EngineConnection) -> None:
        async with self._change:
            log.info("the engine of %s falls asleep", self._name)
            await engine.stop()
            if self._on_asleep is not None:
                await self._on_asleep()
