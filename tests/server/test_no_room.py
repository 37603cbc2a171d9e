"""Who finds no room is told so before its body is read, and reads the answer."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

from llmplug.config import KeyConfig

from .conftest import DEADLINE_S, Running, StartServer, until
from .fake_engine import silent, speak

# What waits for an engine, or for bytes.
WAITS = {
    "/classify", "/detokenize", "/pooling", "/rerank", "/score", "/tokenize",
    "/v1/chat/completions",
    "/v1/classify", "/v1/completions", "/v1/embeddings", "/v1/messages",
    "/v1/messages/count_tokens", "/v1/rerank", "/v1/responses", "/v1/responses/compact",
    "/v1/responses/input_tokens", "/v1/score", "/v2/embed", "/v2/rerank",
}  # fmt: skip
BODY = json.dumps({"model": "toy", "prompt": "Once"}).encode()


def make_head(path: str, *headers: str) -> bytes:
    lines = (f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", *headers)
    return "\r\n".join((*lines, "", "")).encode()


async def fill(server: Running) -> asyncio.Task[Any]:
    """Have the one place that there is taken."""
    asking = asyncio.create_task(server.complete())
    await until(lambda: server.app.ctx.admission.num_waiting == 1)
    return asking


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], Any]:
    """Read one answer: status, headers, JSON."""
    async with asyncio.timeout(DEADLINE_S):
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
        headers = dict(line.lower().split(": ", 1) for line in lines)
        body = await reader.readexactly(int(headers["content-length"]))
    return int(first.split()[1]), headers, json.loads(body)


async def test_every_route_that_waits_refuses_unread(start: StartServer) -> None:
    server = await start(silent, max_waiting_requests=1)
    (await fill(server)).cancel()
    await until(lambda: server.app.ctx.admission.num_waiting == 0)
    asking = await fill(server)
    posts = {f"/{route.path}" for route in server.app.router.routes if "POST" in route.methods}
    assert posts >= WAITS
    for path in sorted(WAITS):
        reader, writer = await asyncio.open_connection(*server.host_port)
        writer.write(make_head(path, "Content-Length: 1000"))  # which do not come
        status, headers, _ = await read_answer(reader)
        assert (status, headers["retry-after"]) == (429, "1"), path
        writer.close()
    assert len(server.engine.requests) == 2
    asking.cancel()


async def test_no_other_route_says_that_there_is_no_room(start: StartServer) -> None:
    server = await start(silent, max_waiting_requests=1)
    asking = await fill(server)
    for route in server.app.router.routes:
        path = f"/{route.path}"
        if path not in WAITS and "POST" in route.methods and "<" not in path:
            assert (await server.http.post(path, json={})).status_code != 429, path
    asking.cancel()


async def test_a_body_that_comes_after_its_refusal_is_dropped(start: StartServer) -> None:
    server = await start(silent, max_waiting_requests=1)
    asking = await fill(server)
    reader, writer = await asyncio.open_connection(*server.host_port)
    size = 3 * 2**20
    writer.write(make_head("/v1/completions", f"Content-Length: {size}"))
    status, headers, body = await read_answer(reader)
    assert (status, headers["connection"]) == (429, "keep-alive")
    assert body["error"]["code"] == "server_overloaded"
    server.engine.script = speak("Hello")
    asking.cancel()
    await until(lambda: server.app.ctx.admission.num_waiting == 0)
    writer.write(b"x" * size + make_head("/v1/completions", f"Content-Length: {len(BODY)}") + BODY)
    status, _, body = await read_answer(reader)
    assert (status, body["choices"][0]["text"]) == (200, "Hello")
    writer.close()


@pytest.mark.parametrize("length", ["Transfer-Encoding: chunked", "Content-Length: 33554432"])
async def test_a_body_without_end_is_refused_in_words(start: StartServer, length: str) -> None:
    """The connection is closed, but not before all is sent: a client reads why."""
    server = await start(silent, max_waiting_requests=1, max_body_bytes=2**20)
    asking = await fill(server)
    reader, writer = await asyncio.open_connection(*server.host_port)
    writer.write(make_head("/v1/completions", length))
    if length.endswith("chunked"):
        chunk = b"100000\r\n" + b"x" * 2**20 + b"\r\n"
        writer.write(chunk * 32 + b"0\r\n\r\n")
    else:
        writer.write(b"x" * 2**25)
    await asyncio.wait_for(writer.drain(), DEADLINE_S)
    status, headers, _ = await read_answer(reader)
    assert (status, headers["connection"]) == (429, "close")
    assert await asyncio.wait_for(reader.read(), DEADLINE_S) == b""
    writer.close()
    asking.cancel()


async def test_who_asks_before_it_sends_is_spared_it(start: StartServer) -> None:
    """No "100 Continue" comes first; a body that may never come is not taken for a request."""
    server = await start(silent, max_waiting_requests=1)
    asking = await fill(server)
    reader, writer = await asyncio.open_connection(*server.host_port)
    writer.write(make_head("/v1/completions", "Content-Length: 9", "Expect: 100-continue"))
    status, headers, _ = await read_answer(reader)
    assert (status, headers["connection"]) == (429, "close")
    writer.close()
    asking.cancel()


async def test_a_body_that_never_fits_is_not_asked_to_come_again(start: StartServer) -> None:
    server = await start(silent, max_body_bytes=2**20, max_running_bytes=2**21)
    asking = await fill(server)
    too_large = await server.http.post(
        "/v1/completions", content=b"x" * 2**22, headers={"Content-Type": "application/json"}
    )
    assert too_large.status_code == 413
    asking.cancel()


async def test_bytes_are_known_before_they_come(start: StartServer) -> None:
    server = await start(silent, max_running_bytes=1000)
    asking = await fill(server)
    reader, writer = await asyncio.open_connection(*server.host_port)
    writer.write(make_head("/v1/completions", "Content-Length: 1000"))
    status, _, body = await read_answer(reader)
    assert status == 429
    assert "bytes" in body["error"]["message"]
    writer.close()
    asking.cancel()


async def test_a_refusal_is_counted_and_has_an_id(start: StartServer) -> None:
    server = await start(silent, max_waiting_requests=1)
    asking = await fill(server)
    headers = {"X-Request-Id": "mine"}
    refused = await server.http.post("/v1/messages", content=b"no JSON", headers=headers)
    assert (refused.status_code, refused.headers["X-Request-Id"]) == (429, "mine")
    assert refused.headers["request-id"] == "mine"
    assert refused.json()["error"]["type"] == "rate_limit_error"
    name = "llmplug_responses_total"
    counted = f'{name}{{code="server_overloaded",route="/v1/messages",status="429"}} 1.0'
    assert counted in await server.metric(name)
    asking.cancel()


async def test_one_line_tells_of_many(start: StartServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    server = await start(silent, max_waiting_requests=1)
    asking = await fill(server)
    for _ in range(20):
        assert (await server.complete()).status_code == 429
    said = [record.getMessage() for record in caplog.records if record.name.startswith("llmplug")]
    assert [line for line in said if "refused" in line or "429" in line] == [
        "no room: 1 requests refused so far"
    ]
    asking.cancel()


async def test_who_has_no_key_is_told_that_first(start: StartServer) -> None:
    server = await start(silent, max_waiting_requests=1, api_keys=[KeyConfig(key="right")])
    server.http.headers["x-api-key"] = "right"
    asking = await fill(server)
    assert (await server.complete()).status_code == 429
    server.http.headers["x-api-key"] = "wrong"
    assert (await server.complete()).status_code == 401
    asking.cancel()


async def test_one_key_s_share_is_known_before_its_body(start: StartServer) -> None:
    keys = [KeyConfig(key="one", max_running=1), KeyConfig(key="other")]
    server = await start(silent, max_waiting_requests=8, api_keys=keys)
    server.http.headers["x-api-key"] = "one"
    asking = await fill(server)
    refused = await server.http.post("/v1/completions", content=b"no JSON")
    assert (refused.status_code, "1 requests at once" in refused.text) == (429, True)
    server.http.headers["x-api-key"] = "other"
    assert (await server.http.post("/v1/completions", content=b"no JSON")).status_code == 415
    asking.cancel()


async def test_a_server_that_drains_says_so(start: StartServer) -> None:
    server = await start(silent, max_waiting_requests=1)
    asking = await fill(server)
    server.app.ctx.lifecycle.pause()
    assert (await server.complete()).status_code == 503
    asking.cancel()
