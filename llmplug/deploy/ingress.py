"""HTTP as Ray's proxies hand it on (ASGI) -> a replica of the server -> HTTP."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, RayServeException, RequestCancelledError

from llmplug.deploy.messages import ForwardedRequest, Headers, ReplyHead
from llmplug.deploy.prefixes import read_prefix
from llmplug.deploy.refusals import is_event_stream, write_last_event, write_refusal
from llmplug.errors import EngineUnavailable, LlmplugError, Overloaded
from llmplug.server.errors import HttpError

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]

log = logging.getLogger("ray.serve")
NUM_TRIES = 3  # of replicas, for a request of which nothing has come back
REQUEST_ID = b"x-request-id"  # Ray's proxies give a request one, and its reply the same
# They say whose caches a prompt may share.
_CREDENTIALS = (b"authorization", b"x-api-key")


class Ingress:
    """What Ray runs in front of the servers: some of these, without a model."""

    def __init__(self, servers: DeploymentHandle, max_body_bytes: int) -> None:
        self._forwarder = Forwarder(servers, max_body_bytes)

    def __serve_build_asgi_app__(self) -> Forwarder:
        """Hand Ray what answers requests."""
        return self._forwarder


class Forwarder:
    """An ASGI application that has each request answered by a replica."""

    def __init__(self, servers: DeploymentHandle, max_body_bytes: int) -> None:
        self._servers = servers.options(method_name="forward", stream=True)
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request, or live for as long as Ray says (ASGI)."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        reply = _Reply(scope, send)
        try:
            request = await _read_request(scope, receive, self._max_body_bytes)
            async with aclosing(self._ask(request)) as parts:
                async for part in parts:
                    await reply.write(part)
        except LlmplugError as error:
            await reply.fail(error)
        await reply.end()

    async def _ask(self, request: ForwardedRequest) -> AsyncGenerator[ReplyHead | bytes, None]:
        """Ask a replica, and another one if that is gone before it said anything.

        Raises:
            EngineUnavailable: no replica answers, or one broke off.
            Overloaded: as many wait already as may.
        """
        for number in range(1, NUM_TRIES + 1):
            parts = self._servers.remote(request)
            has_begun = False
            try:
                async for part in parts:
                    has_begun = True
                    yield part
                return
            except BackPressureError:
                raise Overloaded("All servers are busy.", retry_after_s=1) from None
            except RequestCancelledError:
                raise
            except (RayError, RayServeException) as error:
                log.warning("a replica failed at try %d: %s", number, error)
                if has_begun or number == NUM_TRIES:
                    message = "The server that worked on this request is gone. Try again."
                    raise EngineUnavailable(message) from error
            finally:
                # For whoever stops to listen. Else it is over, and if no replica was found for it,
                # Ray says so once more.
                with suppress(RayServeException):
                    parts.cancel()


class _Reply:
    """What is sent to the client of one request."""

    def __init__(self, scope: Message, send: Send) -> None:
        self._path: str = scope["path"]
        self._request_id = dict(scope["headers"]).get(REQUEST_ID, b"").decode("latin-1")
        self._send = send
        self._head: ReplyHead | None = None

    async def write(self, part: ReplyHead | bytes) -> None:
        """Send the head, or more of the body."""
        if isinstance(part, ReplyHead):
            self._head = part
            headers = [(name, value) for name, value in part.headers if name != REQUEST_ID]
            start = {"type": "http.response.start", "status": part.status, "headers": headers}
            await self._send(start)
        else:
            await self._send({"type": "http.response.body", "body": part, "more_body": True})

    async def fail(self, error: LlmplugError) -> None:
        """Say what is wrong, as the protocol does where the reply has got to.

        Raises:
            LlmplugError: there is no way to say it, and the connection must break.
        """
        if self._head is None:
            for part in write_refusal(self._path, error, self._request_id):
                await self.write(part)
        elif is_event_stream(self._head.headers):
            await self.write(write_last_event(self._path, error, self._request_id))
        else:
            raise error

    async def end(self) -> None:
        """Send the end of the body."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


async def _read_request(scope: Message, receive: Receive, max_body_bytes: int) -> ForwardedRequest:
    headers: Headers = tuple((bytes(name), bytes(value)) for name, value in scope["headers"])
    body = await _read_body(receive, max_body_bytes)
    caller = b"\0".join(value for name, value in headers if name in _CREDENTIALS)
    path = scope.get("raw_path") or quote(scope["path"]).encode()
    query = scope.get("query_string", b"")
    return ForwardedRequest(
        method=scope["method"],
        target=(path + b"?" + query if query else path).decode("latin-1"),
        headers=headers,
        body=body,
        prefix=read_prefix(body, caller) if body else (),
    )


async def _read_body(receive: Receive, max_bytes: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise HttpError(499, "The client went away.", code="client_closed_request")
        body += message.get("body", b"")
        if len(body) > max_bytes:
            words = "The request is larger than this server accepts."
            raise HttpError(413, words, code="request_too_large")
        if not message.get("more_body", False):
            return bytes(body)


async def _live(receive: Receive, send: Send) -> None:
    """Answer ASGI's two questions about a life: whether it may begin, and end."""
    for word in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{word}.complete"})
