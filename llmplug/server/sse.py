"""Server-sent events, with exactly one terminal event whatever happens."""

from __future__ import annotations

import asyncio
import logging
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from llmplug.errors import EngineError
from llmplug.server.errors import describe, is_unforeseen
from llmplug.server.framing import framing_of
from llmplug.server.record import record_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sanic import Request
    from sanic.response import BaseHTTPResponse

    from llmplug.server.framing import Framing

log = logging.getLogger("llmplug.server")

HEARTBEAT_S = 10.0  # proxies cut silent connections after 30 s or more
# A reader that takes nothing for so long is gone; its connection is closed.
WRITE_TIMEOUT_S = 120.0
LAST_WORDS_TIMEOUT_S = 2.0


class EventStream:
    """Writes one reply as events of its protocol; the status 200 leaves with the first of them.

    Used as an async context manager: an exception inside becomes an error event, an exit without
    `finish` too. After either nothing more can be sent.

    Args:
        framing: of this reply alone; None: its protocol's.
    """

    def __init__(
        self, request: Request, headers: Mapping[str, str], framing: Framing | None = None
    ) -> None:
        self._request = request
        self._framing = framing or framing_of(request)
        self._headers = {
            "Cache-Control": "no-cache",
            "X-Accel-Buffering": "no",  # asks nginx not to hold events back
            **headers,
        }
        self._response: BaseHTTPResponse | None = None
        self._heart: asyncio.Task[None] | None = None
        self._is_over = False
        self._has_sent = False  # since the last heartbeat
        self._writing_since: float | None = None  # time.monotonic()

    async def __aenter__(self) -> Self:
        self._response = await self._request.respond(
            headers=self._headers, content_type="text/event-stream; charset=utf-8"
        )
        self._heart = asyncio.create_task(self._beat())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self._stop_heart()
        if error is None and self._is_over:
            return False
        if isinstance(error, asyncio.CancelledError):
            reason = self._request.app.ctx.lifecycle.explain_cancel(self._request)
            if reason is None:
                return False
            error = reason
        if error is None:
            error = EngineError("a stream ended without a terminal event")
        if not isinstance(error, Exception):
            return False
        if is_unforeseen(error):
            log.error("stream failed", exc_info=error)
        try:
            async with asyncio.timeout(LAST_WORDS_TIMEOUT_S):
                await self.fail(error)
        except TimeoutError:
            self._hang_up()
        return True

    async def send(self, frames: bytes) -> None:
        """Write whole events; waits while the reader does not keep up."""
        if self._is_over or self._response is None:
            raise RuntimeError("nothing can be sent after the terminal event")
        self._has_sent = True
        self._writing_since = time.monotonic()
        await self._response.send(frames)
        self._writing_since = None

    async def finish(self, frames: bytes = b"") -> None:
        """Write the last events and end the stream."""
        await self._end(frames + self._framing.end)

    async def fail(self, error: Exception) -> None:
        """Write an error event and end the stream."""
        reply = describe(error)
        record = record_of(self._request)
        record.error_code = reply.code or reply.kind
        await self._end(self._framing.error_event(reply, record.id) + self._framing.end)

    async def _end(self, frames: bytes) -> None:
        if self._is_over or self._response is None:
            return
        self._is_over = True
        self._stop_heart()
        await self._response.send(frames, end_stream=True)

    async def _beat(self) -> None:
        """Keep a silent connection open, and hang up on a reader that takes nothing.

        The deadline of a write is kept here because a timer per event would cost more than the
        event. Hanging up cancels the request's task.
        """
        while not self._is_over:
            self._has_sent = False
            await asyncio.sleep(HEARTBEAT_S)
            if self._writing_since is not None:
                if time.monotonic() - self._writing_since > WRITE_TIMEOUT_S:
                    self._hang_up()
            elif not self._has_sent:
                await self.send(self._framing.heartbeat)

    def _hang_up(self) -> None:
        """Close the connection without waiting for what is still to be written."""
        transport: Any = self._request.transport
        if transport is not None:
            transport.abort()

    def _stop_heart(self) -> None:
        if self._heart is not None:
            self._heart.cancel()
            self._heart = None
