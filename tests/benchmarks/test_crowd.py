"""The crowd of the overload's measurement: answers are read as the standard library reads them."""

from __future__ import annotations

import asyncio
import http.client
import io
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.crowd import Crowd, join_chunks

OK = b"HTTP/1.1 200 OK\r\nX-Kind: Test\r\n"
PLAIN = OK + b"Content-Length: 5\r\n\r\nhello"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n7;x=y\r\n world\n\r\n0\r\n\r\n"
CLOSED = OK + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello"
DEADLINE_S = 10.0


class Sock:
    """What `http.client` reads an answer of."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


def read_by_the_library(data: bytes) -> tuple[int, bytes]:
    response = http.client.HTTPResponse(Sock(data))  # type: ignore[arg-type]
    response.begin()
    return response.status, response.read()


@asynccontextmanager
async def answering(pieces: Sequence[bytes]) -> AsyncIterator[tuple[Crowd, list[int]]]:
    """A server that says the same to each request, a piece at a time; and its connections."""
    connections: list[int] = []
    answered: list[asyncio.Task[None] | None] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answered.append(asyncio.current_task())
        connections.append(0)
        number = len(connections) - 1
        with suppress(asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split()[0]))
                connections[number] += 1
                for piece in pieces:
                    writer.write(piece)
                    await asyncio.sleep(0)
                if not pieces[-1]:
                    break
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, asyncio.timeout(DEADLINE_S):
        crowd = Crowd(server.sockets[0].getsockname()[1])
        yield crowd, connections
        crowd.close()
        await asyncio.gather(*(each for each in answered if each is not None))


@pytest.mark.parametrize("data", [PLAIN, CHUNKED, CLOSED], ids=["plain", "chunked", "closed"])
@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_answers_are_read_as_the_library_reads_them(data: bytes, size: int) -> None:
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    async with answering(pieces) as (crowd, connections):
        answers = [await crowd.ask("/x", b"{}") for _ in range(3)]
    for answer in answers:
        assert (answer.status, answer.body) == read_by_the_library(data)
        assert answer.headers["x-kind"] == "Test"
        assert 0 < answer.first_s <= answer.whole_s
    assert connections == ([1, 1, 1] if data is CLOSED else [3])


async def test_requests_at_once_have_connections_of_their_own() -> None:
    async with answering([PLAIN]) as (crowd, connections):
        await asyncio.gather(*(crowd.ask("/x", b"{}") for _ in range(4)))
        await asyncio.gather(*(crowd.ask("/x", b"{}") for _ in range(4)))
    assert connections == [2, 2, 2, 2]


async def test_an_answer_that_breaks_off_is_told() -> None:
    async with answering((PLAIN[:-1], b"")) as (crowd, _):
        with pytest.raises(ConnectionError, match="broke off"):
            await crowd.ask("/x", b"{}")


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8))
def test_chunks_are_joined(parts: list[bytes]) -> None:
    written = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    assert join_chunks(written + b"0\r\n\r\n") == b"".join(parts)
