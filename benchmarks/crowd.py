"""Requests of many clients over connections that are kept, at little processor time of our own.

A client that takes as long as the server would measure itself: bytes are only looked at when an
answer is whole.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Mapping

HEAD_END = b"\r\n\r\n"
LAST_CHUNK = b"\r\n0\r\n\r\n"  # no event holds it: JSON has no bare line ends


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer; times are seconds since its request was sent."""

    status: int
    headers: Mapping[str, str]  # names in small letters
    body: bytes
    first_s: float  # until the first byte of the body
    whole_s: float


class Connection(asyncio.Protocol):
    """A connection: a request, its answer, then the next request."""

    def __init__(self) -> None:
        self._answer: asyncio.Future[Answer] | None = None
        self._received = bytearray()
        self._sent_at = self._first_s = 0.0
        self._body_at = self._ends_at = 0  # in what was received; 0: not known yet

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one by its methods

    async def ask(self, request: bytes) -> Answer:
        """Send a request and wait for all of its answer.

        Raises:
            ConnectionError: the connection broke off before.
        """
        self._received.clear()
        self._body_at = self._ends_at = 0
        self._first_s = 0.0
        self._answer = asyncio.get_running_loop().create_future()
        self._sent_at = time.monotonic()
        self.transport.write(request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        """Take bytes of the answer."""
        received = self._received
        received += data
        if not self._body_at:
            self._body_at = received.find(HEAD_END) + len(HEAD_END)
            if self._body_at < len(HEAD_END):
                self._body_at = 0
                return
            length = read_headers(received[: self._body_at]).get("content-length")
            self._ends_at = 0 if length is None else self._body_at + int(length)
        if not self._first_s and len(received) > self._body_at:
            self._first_s = time.monotonic() - self._sent_at
        is_whole = (
            len(received) >= self._ends_at if self._ends_at else received.endswith(LAST_CHUNK)
        )
        if is_whole and self._answer is not None and not self._answer.done():
            self._answer.set_result(self._make_answer())

    def connection_lost(self, error: Exception | None) -> None:
        """Tell whoever waits."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError(f"broke off: {error}"))

    def _make_answer(self) -> Answer:
        whole_s = time.monotonic() - self._sent_at
        head, body = self._received[: self._body_at], bytes(self._received[self._body_at :])
        return Answer(
            status=int(head.split(b" ", 2)[1]),
            headers=read_headers(head),
            body=body if self._ends_at else join_chunks(body),
            first_s=self._first_s or whole_s,
            whole_s=whole_s,
        )


class Crowd:
    """Clients of one server: a connection for each request under way.

    Args:
        port: of this machine, where the server listens.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[Connection] = []

    async def ask(self, path: str, body: bytes) -> Answer:
        """Post a JSON body.

        Raises:
            OSError: the server cannot be reached, or the connection broke off.
        """
        if self._idle:
            connection = self._idle.pop()
        else:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(Connection, "127.0.0.1", self._port)
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        answer = await connection.ask(head.encode() + body)
        if answer.headers.get("connection") == "close":
            connection.transport.close()
        else:
            self._idle.append(connection)
        return answer

    def close(self) -> None:
        """Close the connections."""
        while self._idle:
            self._idle.pop().transport.close()


def read_headers(head: bytes | bytearray) -> dict[str, str]:
    """Read the lines below the first one."""
    lines = head.decode("latin-1").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines if line)
    return {name.lower(): value.strip() for name, _, value in pairs}


def join_chunks(body: bytes) -> bytes:
    """Undo the chunked encoding of a whole body.

    Source: https://www.rfc-editor.org/rfc/rfc9112#section-7.1
    """
    parts: list[bytes] = []
    at = 0
    while True:
        line_end = body.index(b"\r\n", at)
        size = int(body[at:line_end].split(b";")[0], 16)
        if not size:
            return b"".join(parts)
        parts.append(body[line_end + 2 : line_end + 2 + size])
        at = line_end + 4 + size
