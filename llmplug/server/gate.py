"""What happens before a handler runs: an id, the key, then the body.

Sanic reads a body before any middleware runs, so this hangs on its routing signals: nobody
without a key makes the server buffer anything, and a body has a deadline.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from sanic.exceptions import PayloadTooLarge

from llmplug.server.errors import HttpError
from llmplug.server.framing import framing_of
from llmplug.server.record import REQUEST_ID_HEADER, record_of

if TYPE_CHECKING:
    from sanic import Request, Sanic
    from sanic.response import BaseHTTPResponse

# A body of 16 MiB passes a line of 2.2 Mbit/s in this time; routes of larger ones give more.
BODY_TIMEOUT_S = 60.0
PACE_BYTES = 16 * 2**20
MAX_DROPPED_BYTES = 64 * 2**20


def install(app: Sanic[Any, Any]) -> None:
    """Hang the gate on the signals of `app`."""
    app.signal("http.routing.before")(_before_routing)
    app.signal("http.routing.after")(_after_routing)
    app.signal("http.lifecycle.response")(_close_record)
    app.on_response(_name_request)  # type: ignore[no-untyped-call]


async def _before_routing(request: Request) -> None:
    record = record_of(request)
    record.caller = request.app.ctx.keys.authorise(request)


async def _after_routing(request: Request, **_: object) -> None:
    needs_body = request.method == "POST" and not _takes_no_body(request)
    if needs_body:
        _check_media_type(request)
    stream = request.stream
    if stream is not None and stream.request_body:
        await _read_body(request)
    if needs_body and not request.body:
        raise HttpError(400, "The request has no body.", code="missing_body")


def drop_body(request: Request) -> None:
    """Have what is still under way of a body that is too large dropped after the answer.

    Closing the socket on it would reset the connection, and the client would never see the answer.
    """
    stream: Any = request.stream
    stream.request_max_size = stream.protocol.request_max_size = MAX_DROPPED_BYTES
    stream.keep_alive = False


def _takes_no_body(request: Request) -> bool:
    """Whether the route says of itself `ctx_takes_no_body`: its path says all."""
    return request.route is not None and hasattr(request.route.ctx, "takes_no_body")


async def _read_body(request: Request) -> None:
    """Read the body, within the bound of its route: `ctx_max_bytes`, or that of the server."""
    most = getattr(request.route and request.route.ctx, "max_bytes", None)
    if most is not None:
        request.stream.request_max_size = most  # type: ignore[union-attr]
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S * max(1.0, (most or 0) / PACE_BYTES)):
            await request.receive_body()  # type: ignore[no-untyped-call]
    except PayloadTooLarge:
        drop_body(request)
        raise
    except TimeoutError:
        raise HttpError(408, "The body did not arrive in time.", code="request_timeout") from None
    # Sanic pauses reading when its buffer is full; paused, nobody would notice a disconnect.
    transport = request.transport
    if transport is not None and not transport.is_closing():
        transport.resume_reading()  # type: ignore[attr-defined]


def _check_media_type(request: Request) -> None:
    header = str(request.headers.getone("content-type", ""))
    wanted = getattr(request.route and request.route.ctx, "media_type", "application/json")
    if header.partition(";")[0].strip().lower() != wanted:
        raise HttpError(
            415,
            f"The body must be sent as 'Content-Type: {wanted}'.",
            code="unsupported_media_type",
        )


async def _name_request(request: Request, response: BaseHTTPResponse) -> None:
    record = record_of(request)
    response.headers[REQUEST_ID_HEADER] = record.id
    response.headers.update(framing_of(request).headers(record.id))


async def _close_record(request: Request, response: BaseHTTPResponse) -> None:
    record_of(request).close(response.status)
    request.body = b""  # a connection that stays open keeps its last request
