"""The one door through which errors leave: an exception becomes a status and a body."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
from sanic.exceptions import (
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    RequestCancelled,
    RequestTimeout,
    SanicException,
)
from sanic.handlers import ErrorHandler
from sanic.response import HTTPResponse

from llmplug.errors import (
    EngineError,
    EngineUnavailable,
    InvalidRequest,
    LlmplugError,
    ModelNotFound,
    Overloaded,
)
from llmplug.server.framing import framing_of
from llmplug.server.record import record_of

if TYPE_CHECKING:
    from sanic import Request

log = logging.getLogger("llmplug.server")

CLIENT_CLOSED_REQUEST = 499  # never sent: nobody is there to read it


class HttpError(LlmplugError):
    """A request that is refused because of how it came, not because of what it asks."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        kind: str = "invalid_request_error",
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.kind = kind
        self.headers = headers or {}


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """What a client is told."""

    status: int
    message: str
    kind: str
    code: str | None = None
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


def describe(error: BaseException) -> ErrorReply:
    """Choose status, code and words for `error`.

    An exception that nobody foresaw becomes a 500 that says nothing about its inside.
    """
    if isinstance(error, LlmplugError):
        return _describe_ours(error)
    if isinstance(error, SanicException):
        return _describe_http(error)
    if isinstance(error, asyncio.CancelledError):
        return ErrorReply(CLIENT_CLOSED_REQUEST, "The client went away.", "client_closed_request")
    return ErrorReply(
        500,
        "The server failed while it worked on this request. Its log says why.",
        "server_error",
        "internal_error",
    )


def _describe_ours(error: LlmplugError) -> ErrorReply:  # noqa: PLR0911 - one line a class
    message = str(error)
    if isinstance(error, HttpError):
        return ErrorReply(error.status, message, error.kind, error.code, headers=error.headers)
    if isinstance(error, ModelNotFound):
        return ErrorReply(404, message, "invalid_request_error", error.code, error.param)
    if isinstance(error, InvalidRequest):
        return ErrorReply(400, message, "invalid_request_error", error.code, error.param)
    if isinstance(error, Overloaded):
        retry = {"Retry-After": str(error.retry_after_s)}
        return ErrorReply(429, message, "rate_limit_error", "server_overloaded", headers=retry)
    if isinstance(error, EngineUnavailable):
        retry = {"Retry-After": "5"}
        return ErrorReply(503, message, "server_error", "engine_unavailable", headers=retry)
    if isinstance(error, EngineError):
        # Its words come from inside the engine: the log has them, the client gets none.
        message = "The engine failed while it worked on this request."
        return ErrorReply(500, message, "server_error", "engine_error")
    message = "The server failed while it worked on this request. Its log says why."
    return ErrorReply(500, message, "server_error", "internal_error")


def _describe_http(error: SanicException) -> ErrorReply:  # noqa: PLR0911 - one line a class
    """Sanic's own refusals; its words may hold internals, so they are replaced."""
    kind = "invalid_request_error"
    if isinstance(error, MethodNotAllowed):
        allow = str(error.headers.get("Allow", ""))
        message = f"This method is not allowed here. Allowed: {allow or 'none'}."
        return ErrorReply(405, message, kind, "method_not_allowed", headers={"Allow": allow})
    if isinstance(error, NotFound):
        return ErrorReply(404, "There is no such endpoint.", kind, "unknown_url")
    if isinstance(error, PayloadTooLarge):
        close = {"Connection": "close"}
        message = "The request is larger than this server accepts."
        return ErrorReply(413, message, kind, "request_too_large", headers=close)
    if isinstance(error, RequestTimeout):
        message = "The request did not arrive in time."
        return ErrorReply(408, message, kind, "request_timeout")
    if isinstance(error, RequestCancelled):
        return ErrorReply(CLIENT_CLOSED_REQUEST, "The client went away.", "client_closed_request")
    status = error.status_code or 500
    if 400 <= status < 500:
        return ErrorReply(status, "The HTTP request is malformed.", kind, "bad_request")
    return ErrorReply(status, "The server cannot answer this request.", "server_error", None)


def is_unforeseen(error: BaseException) -> bool:
    """Whether `error` is ours to repair: its traceback belongs in the log."""
    return describe(error).status == 500


class OpenAIErrorHandler(ErrorHandler):
    """Sanic's hook: every exception of every route, and of no route, passes here."""

    def response(self, request: Request, exception: BaseException) -> HTTPResponse:
        """Answer `exception`; log it if it is ours to repair."""
        if is_unforeseen(exception):
            log.error("request failed", exc_info=exception)
        reply = describe(exception)
        record = record_of(request)
        record.error_code = reply.code or reply.kind
        return HTTPResponse(
            framing_of(request).error_body(reply, record.id),
            status=reply.status,
            headers=reply.headers,
            content_type="application/json",
        )


def as_json(body: Any, headers: dict[str, str] | None = None) -> HTTPResponse:
    """A 200 with a JSON body."""
    return HTTPResponse(msgspec.json.encode(body), headers=headers, content_type="application/json")
