"""What comes byte by byte has as long as what comes at once: no byte begins the time anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sanic.http.constants import Stage
from sanic.server.protocols.http_protocol import HttpProtocol

if TYPE_CHECKING:
    from sanic.http.http1 import Http


class DeadlineProtocol(HttpProtocol):
    """Sanic's, which counts REQUEST_TIMEOUT from the first byte of a head, not from the last.

    The same holds for KEEP_ALIVE_TIMEOUT and what is left of a body after its answer, which is read
    and dropped.
    """

    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        """Take bytes."""
        began_at = self._time
        has_begun = self._awaits_rest()
        super().data_received(data)
        if has_begun:
            self._time = began_at

    def _awaits_rest(self) -> bool:
        """Whether the connection waits for the rest of what has begun."""
        http: Http | None = getattr(self, "_http", None)  # not set before its task runs
        if http is None:
            return False
        is_draining = http.stage is Stage.IDLE and bool(http.request_body)
        return http.stage is Stage.REQUEST or is_draining
