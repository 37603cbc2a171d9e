"""Requests that find no room are refused first of all: before a body is read, or a handler found.

A flood of them must leave an engine its processor. Sanic's way to a handler and back takes three
times as long (`python -m benchmarks.overload` says how long a refusal takes), so this stands before
it: where there is room, or an error of another kind, all goes that way.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from sanic.response import HTTPResponse

from llmplug.errors import Overloaded
from llmplug.server.errors import HttpError, describe
from llmplug.server.framing import framing_of
from llmplug.server.gate import drop_body
from llmplug.server.record import REQUEST_ID_HEADER, record_of
from llmplug.server.slow_bytes import DeadlineProtocol

if TYPE_CHECKING:
    from sanic import Request, Sanic
    from sanic_routing import Route

log = logging.getLogger("llmplug.server")

TELL_EVERY_S = 10.0


class FirstDoor:
    """Knows the routes that wait for an engine, and refuses when there is no room.

    Such a route says how many prompts a request has at least: `ctx_min_prompts`.
    """

    def __init__(self, app: Sanic[Any, Any]) -> None:
        self._app = app
        self._routes: dict[str, Route] = {
            f"/{route.path}": route
            for route in app.router.routes
            if hasattr(route.ctx, "min_prompts")
        }
        self._told_at = -TELL_EVERY_S
        self._num_refused = 0

    async def answer(self, request: Request) -> None:
        """Refuse a request, or have it answered."""
        route = self._routes.get(request.path) if request.method == "POST" else None
        error = None if route is None else self._find_refusal(request, route)
        if route is None or error is None:
            await self._app.handle_request(request)
            return
        request.route = route
        await self._refuse(request, error)

    def _find_refusal(self, request: Request, route: Route) -> Overloaded | None:
        """Say why there is no room; None: there may be, or the request is not for us to refuse."""
        context = self._app.ctx
        stream: Any = request.stream
        if context.lifecycle.is_draining:
            return None
        num_bytes = stream.request_bytes  # 0: it comes in chunks
        if num_bytes > getattr(route.ctx, "max_bytes", stream.request_max_size):
            num_bytes = 0  # it is told that it never fits, if that is all
        try:
            caller = context.keys.authorise(request)
            context.admission.check(
                route.ctx.min_prompts,
                num_bytes=num_bytes,
                caller=caller,
                limits=context.keys.limits_of(caller),
            )
        except HttpError:
            return None
        except Overloaded as error:
            record_of(request).caller = caller
            return error
        return None

    async def _refuse(self, request: Request, error: Overloaded) -> None:
        record, framing = record_of(request), framing_of(request)
        stream: Any = request.stream
        is_awaited, stream.expecting_continue = stream.expecting_continue, False
        is_long = stream.request_body == "chunked" or stream.request_bytes > stream.request_max_size
        if is_awaited or is_long:
            drop_body(request)  # any other is read and dropped by Sanic, and the connection is kept
        reply = describe(error)
        record.error_code = reply.code
        response = HTTPResponse(
            framing.error_body(reply, record.id),
            reply.status,
            {**reply.headers, REQUEST_ID_HEADER: record.id, **framing.headers(record.id)},
            "application/json",
        )
        record.count(reply.status)
        self._tell()
        stream.respond(response)
        await response.send(end_stream=True)

    def _tell(self) -> None:
        """Log a line now and then, not one for each."""
        self._num_refused += 1
        now = time.monotonic()
        if now - self._told_at >= TELL_EVERY_S:
            self._told_at = now
            log.warning("no room: %d requests refused so far", self._num_refused)


class FirstDoorProtocol(DeadlineProtocol):
    """Leads requests through the first door of its application."""

    __slots__ = ()

    def _setup(self) -> None:
        super()._setup()  # type: ignore[no-untyped-call]
        self.request_handler = self.app.ctx.first_door.answer
