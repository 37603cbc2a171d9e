"""A client that goes away, at any stage, leaves nothing running."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from typing import Any

import pytest
from sanic.server.protocols.http_protocol import HttpProtocol

from llmplug.server import sse

from .conftest import Running, StartServer, chat_fields, until
from .fake_engine import TOKENIZER, endless, silent, speak
from .sse_reader import joined_text, read_events


async def send(server: Running, path: str, fields: dict[str, Any]) -> asyncio.StreamWriter:
    """Send a request and return its connection, unread."""
    _, writer = await connect(server, path, fields)
    return writer


async def connect(
    server: Running, path: str, fields: dict[str, Any]
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(*server.host_port)
    writer.write(make_request(path, fields))
    return reader, writer


def make_request(path: str, fields: dict[str, Any]) -> bytes:
    body = json.dumps(fields).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


CHAT = ("/v1/chat/completions", chat_fields())
BATCH = ("/v1/completions", {"model": "toy", "prompt": ["a", "b", "c"], "n": 2})


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("script", [endless(), silent], ids=["generating", "waiting"])
@pytest.mark.parametrize("request_of", [CHAT, BATCH], ids=["chat", "batch"])
async def test_disconnect_ends_the_generation(
    start: StartServer, request_of: tuple[str, dict[str, Any]], script: Any, is_streamed: bool
) -> None:
    server = await start(script)
    path, fields = request_of
    writer = await send(server, path, {**fields, "stream": is_streamed})
    await until(lambda: server.engine.num_open > 0)
    assert server.num_in_flight == 1
    writer.transport.abort()
    await until(lambda: server.engine.num_open == 0 and server.num_in_flight == 0)
    assert server.app.ctx.admission.num_waiting == 0
    assert server.app.ctx.lifecycle.num_running == 0
    aborted = 'llmplug_generations_total{model="toy",outcome="abort"}'
    assert await server.metric(aborted) == f"{aborted} 1.0"


async def test_disconnect_is_noticed_behind_a_large_body(start: StartServer) -> None:
    """Sanic pauses reading when 64 KiB wait; a paused socket would never report its end."""
    server = await start(silent)
    fields = chat_fields(messages=[{"role": "user", "content": "x" * 90_000}])
    writer = await send(server, "/v1/chat/completions", fields)
    await until(lambda: server.engine.num_open > 0)
    writer.transport.abort()
    await until(lambda: server.engine.num_open == 0)


async def test_disconnect_while_the_prompt_is_rendered(start: StartServer) -> None:
    server = await start()
    is_rendering, may_render = asyncio.Event(), asyncio.Event()

    async def render(*_: Any, **__: Any) -> list[int]:
        is_rendering.set()
        await may_render.wait()
        return [1]

    server.service.models[0].render = render  # type: ignore[method-assign]
    writer = await send(server, *CHAT)
    await is_rendering.wait()
    assert server.app.ctx.admission.num_waiting == 1
    writer.transport.abort()
    await until(lambda: server.app.ctx.lifecycle.num_running == 0)
    assert server.app.ctx.admission.num_waiting == 0
    assert server.engine.requests == []


async def test_disconnect_in_the_middle_of_a_body(start: StartServer) -> None:
    server = await start()
    _, writer = await asyncio.open_connection(*server.host_port)
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: 1000\r\n\r\n{"
    )
    await writer.drain()
    writer.transport.abort()
    assert (await server.complete()).status_code == 200
    assert len(server.engine.requests) == 1


async def test_slow_reader_does_not_hold_up_others(start: StartServer) -> None:
    server = await start(endless())
    reader, writer = await connect(server, *("/v1/completions", dict(BATCH[1], stream=True)))
    await reader.readline()  # and no more: the buffers fill up, and the server stops writing
    for _ in range(20):
        stream = server.http.stream(
            "POST", "/v1/chat/completions", json=chat_fields(stream=True, stop="abab")
        )
        async with stream as response:
            assert response.status_code == 200
            assert "[DONE]" in (await response.aread()).decode()
    writer.transport.abort()
    await until(lambda: server.engine.num_open == 0)


def make_with_little_room(
    protocol: HttpProtocol,
    transport: asyncio.Transport,
    make: Callable[..., None] = HttpProtocol.connection_made,
) -> None:
    """Let the system hold a page of what is written, not megabytes."""
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    make(protocol, transport)


async def test_stalled_reader_is_hung_up_on(
    start: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "WRITE_TIMEOUT_S", 0.05)
    monkeypatch.setattr(sse, "HEARTBEAT_S", 0.01)
    monkeypatch.setattr(HttpProtocol, "connection_made", make_with_little_room)
    server = await start(speak(*(["x" * 10_000] * 2000)))
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, server.host_port)
        fields = chat_fields(stream=True)
        await asyncio.get_running_loop().sock_sendall(sock, make_request(CHAT[0], fields))
        # It may be over before this looks for the first time.
        await until(lambda: len(server.engine.requests) == 1 and server.engine.num_open == 0)
        await until(lambda: server.app.ctx.lifecycle.num_running == 0)
        aborted = 'llmplug_generations_total{model="toy",outcome="abort"}'
        assert await server.metric(aborted) == f"{aborted} 1.0"


async def test_many_streams_at_once(start: StartServer) -> None:
    """Each gets its own text, whole and in order, and every one of them ends."""

    def repeat(request: Any) -> Any:
        return speak(*TOKENIZER.decode(request.prompt_ids))(request)

    server = await start(repeat)
    prompts = [f"prompt number {i} " * 3 for i in range(60)]
    responses = await asyncio.gather(
        *(server.complete(prompt=each, stream=i % 2 == 0) for i, each in enumerate(prompts))
    )
    texts = [
        joined_text(read_events(each)) if i % 2 == 0 else each.json()["choices"][0]["text"]
        for i, each in enumerate(responses)
    ]
    assert texts == prompts
    ids = {request.request_id for request in server.engine.requests}
    assert len(ids) == len(prompts)
