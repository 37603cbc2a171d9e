"""One access-log line and one counter a request: never a prompt, never a key."""

from __future__ import annotations

import logging
import random
import re
import time
import weakref
from typing import TYPE_CHECKING

from llmplug.logs import log_fields
from llmplug.server.receipt import Receipt
from llmplug.server.trail import Trail

if TYPE_CHECKING:
    from sanic import Request

    from llmplug.server.deltas import Usage

log = logging.getLogger("llmplug.access")

REQUEST_ID_HEADER = "X-Request-Id"
# What may come back in a header and go into a log: no spaces, no line ends, no quotes.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
# Probes: open to everybody, and too many to log.
PROBE_PATHS = frozenset({"/live", "/ready", "/health"})
_UNLOGGED_PATHS = PROBE_PATHS | {"/metrics"}


class RequestRecord:
    """What is known of one HTTP request."""

    def __init__(self, request: Request) -> None:
        presented = request.headers.getone(REQUEST_ID_HEADER, "")
        is_fit = _REQUEST_ID.fullmatch(presented) is not None
        # A name and no secret; the system's own chance costs a call of the kernel.
        self.id = presented if is_fit else f"{random.getrandbits(128):032x}"
        self.caller = ""  # the name of the key
        self.model = ""
        self.usage: Usage | None = None
        self.error_code: str | None = None
        self.started_at = time.perf_counter()
        self.receipt = Receipt(self.started_at)
        # A request holds its record: held by it in turn, it would keep its body until the garbage
        # collector comes round, which counts objects and not bytes.
        self._request: Request = weakref.proxy(request)
        self._is_closed = False

    @property
    def route(self) -> str:
        """The route's pattern, "-" if none matched: a client cannot invent labels."""
        route = self._request.route
        return f"/{route.path}" if route is not None else "-"

    def close(self, status: int) -> None:
        """Count the answer and write the line; a second call does nothing."""
        if self._is_closed:
            return
        request = self._request
        self.count(status)
        if request.path in _UNLOGGED_PATHS or not request.app.ctx.logs_requests:
            return
        log_fields(log, self._describe(status))

    def count(self, status: int) -> None:
        """Count the answer, and write no line."""
        self._is_closed = True
        self._request.app.ctx.service.metrics.responses.labels(
            self.route, str(status), self.error_code or ""
        ).inc()

    def make_trail(self) -> Trail:
        """Begin to take down what the request asks of a model."""
        return Trail(
            request_id=self.id,
            route=self.route,
            model=self.model,
            key=self.caller,
            receipt=self.receipt,
            traceparent=str(self._request.headers.getone("traceparent", "")),
        )

    def _describe(self, status: int) -> dict[str, str | int | float | None]:
        usage, receipt = self.usage, self.receipt
        return {
            "id": self.id,
            "method": self._request.method,
            "route": self.route,
            "status": status,
            "ms": _in_ms(time.perf_counter() - self.started_at),
            "queue_ms": _in_ms(receipt.queue_s),
            "first_token_ms": _in_ms(receipt.first_token_s),
            "key": self.caller or None,
            "model": self.model or None,
            "prompt": usage.prompt_tokens if usage else None,
            "cached": usage.cached_tokens if usage else None,
            "completion": usage.completion_tokens if usage else None,
            "error": self.error_code,
        }


def _in_ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)


def record_of(request: Request) -> RequestRecord:
    """The record of `request`, made when it is first asked for."""
    record = getattr(request.ctx, "record", None)
    if record is None:
        record = request.ctx.record = RequestRecord(request)
    return record
