"""Requests that never come to an end are given up."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from llmplug.server import gate

from .conftest import DEADLINE_S, Running, StartServer

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


async def drip(server: Running, start: bytes) -> bytes:
    """Send the start of a request, then a byte now and then; return what is said until the end."""
    server.app.config.update({"REQUEST_TIMEOUT": 0.2, "KEEP_ALIVE_TIMEOUT": 0.2})
    reader, writer = await asyncio.open_connection(*server.host_port)
    writer.write(start)
    answer = asyncio.create_task(read_all(reader))
    async with asyncio.timeout(DEADLINE_S):
        while not answer.done():
            if not writer.is_closing():
                writer.write(b"x")
            await asyncio.wait({answer}, timeout=0.05)
    writer.close()
    return await answer


async def read_all(reader: asyncio.StreamReader) -> bytes:
    """Read until the server closes, with or without a word."""
    said = b""
    with suppress(ConnectionResetError):
        while piece := await reader.read(2**16):
            said += piece
    return said


@pytest.mark.parametrize("start_of_head", [b"GET", b"GET / HTTP/1.1\r\nX-Slow: "])
async def test_a_head_that_comes_byte_by_byte(start: StartServer, start_of_head: bytes) -> None:
    server = await start()
    answer = await drip(server, start_of_head)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 408 ")
    assert (await server.complete()).status_code == 200


async def test_a_refused_body_that_is_never_over(start: StartServer) -> None:
    server = await start()
    answer = await drip(server, HEAD.replace(b"json", b"xml") + b"Content-Length: 1000\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 415 ")


@pytest.mark.parametrize("length", [b"Content-Length: 1000", b"Transfer-Encoding: chunked"])
async def test_a_body_that_comes_byte_by_byte(
    start: StartServer, monkeypatch: pytest.MonkeyPatch, length: bytes
) -> None:
    monkeypatch.setattr(gate, "BODY_TIMEOUT_S", 0.2)
    server = await start()
    began = b"{" if length.startswith(b"Content") else b"3e8\r\n{"
    answer = await drip(server, HEAD + length + b"\r\n\r\n" + began)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"request_timeout" in answer
    assert server.engine.requests == []
