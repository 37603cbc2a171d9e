"""The life of the process: start the engines, go red, drain, end what is left, stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from llmplug.errors import EngineUnavailable
from llmplug.server.errors import CLIENT_CLOSED_REQUEST
from llmplug.server.record import record_of

if TYPE_CHECKING:
    from sanic import Request

log = logging.getLogger("llmplug.server")

# After the drain, replies that are cut get this long to write their terminal event.
LAST_WORDS_S = 5.0


class Lifecycle:
    """Knows the requests that run, and whether new ones may come.

    Args:
        on_busy: called when there is a request after there was none.
        on_idle: called when there is none any more.
    """

    def __init__(
        self,
        on_busy: Callable[[], None] = lambda: None,
        on_idle: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_busy = on_busy
        self._on_idle = on_idle
        self._is_paused = False
        self.is_ending = False  # there will be no more requests
        self.is_stopping = False  # those that still run are ended
        self._tasks: set[asyncio.Task[object]] = set()
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    @property
    def is_draining(self) -> bool:
        """Whether new requests are refused."""
        return self._is_paused or self.is_ending

    @property
    def num_running(self) -> int:
        """Generation requests that have not been answered in full."""
        return len(self._tasks)

    @asynccontextmanager
    async def running(self, request: Request) -> AsyncIterator[None]:
        """Count a request while it runs; a client that goes away ends it.

        Raises:
            EngineUnavailable: the server shuts down, or did so before the reply was complete.
        """
        if self.is_ending:
            raise _shutting_down()
        if self._is_paused:
            raise EngineUnavailable("The server takes no requests now. Try again later.")
        try:
            with self.working():
                yield
        except asyncio.CancelledError:
            reason = self.explain_cancel(request)
            if reason is not None:
                raise reason from None
            record = record_of(request)
            record.error_code = "client_closed_request"
            record.close(CLIENT_CLOSED_REQUEST)
            request.body = b""  # Sanic's request and stream hold each other
            raise

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count the current task while it runs, whether a client waits for it or not."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a request runs in a task")
        if not self._tasks:
            self._is_idle.clear()
            self._on_busy()
        self._tasks.add(task)
        try:
            yield
        finally:
            self._tasks.discard(task)
            if not self._tasks:
                self._is_idle.set()
                self._on_idle()

    def explain_cancel(self, request: Request) -> EngineUnavailable | None:
        """Say why a request's task was cancelled: None if its client went away."""
        is_lost = request.conn_info is None or request.conn_info.lost
        task = asyncio.current_task()
        if not self.is_stopping or is_lost or task is None:
            return None
        task.uncancel()
        return _shutting_down()

    def pause(self) -> None:
        """Take no more requests until `resume`; those that run go on. From any thread."""
        self._is_paused = True
        log.info("paused: no more requests are taken; %d run", self.num_running)

    def resume(self) -> None:
        """Take requests again, unless the server ends. From any thread."""
        self._is_paused = False
        log.info("resumed: requests are taken")

    async def drain(self, timeout_s: float) -> None:
        """Take no more requests, and wait for those that run."""
        self.is_ending = True
        if self._tasks:
            log.info("draining %d requests for up to %g s", len(self._tasks), timeout_s)
        if not await self._wait_idle(timeout_s):
            log.warning("%d requests did not finish in time", len(self._tasks))

    async def end(self) -> None:
        """End what still runs: each reply gets its error, each stream its terminal event."""
        self.is_ending = True
        self.is_stopping = True
        for task in self._tasks:
            task.cancel()
        await self._wait_idle(LAST_WORDS_S)

    async def _wait_idle(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                await self._is_idle.wait()
        except TimeoutError:
            return False
        return True


def _shutting_down() -> EngineUnavailable:
    return EngineUnavailable("The server is shutting down. Try again, elsewhere or later.")
