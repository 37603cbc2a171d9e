"""Probes, loading, drain: what the outside sees of a server's life."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from openai.types import Model

from llmplug.chat.channels import Dialect
from llmplug.config import ServerConfig
from llmplug.errors import CheckpointError
from llmplug.server import app as app_module
from llmplug.server import sse
from llmplug.server.app import create_app
from llmplug.server.model_service import ModelService
from llmplug.server.routes import answer
from llmplug.server.service import Service

from .conftest import StartServer, until
from .fake_engine import TOKENIZER, FakeEngine, endless, speak
from .sse_reader import joined_text, parse_events


async def test_probes_tell_the_truth_while_loading(start: StartServer) -> None:
    engine = FakeEngine()
    engine.may_be_ready.clear()
    server = await start(engine=engine, wait_ready=False)
    await until(lambda: engine.loading is not None)
    assert (await server.http.get("/live")).status_code == 200
    for path in ("/ready", "/health"):
        response = await server.http.get(path)
        assert response.status_code == 503
        assert response.json() == {
            "status": "not ready",
            "models": [
                {"model": "toy", "state": "loading", "stage": "weights", "done": 1, "total": 4}
            ],
        }
    engine.may_be_ready.set()
    await until(lambda: server.service.is_ready)
    response = await server.http.get("/ready")
    assert (response.status_code, response.json()["status"]) == (200, "ready")
    assert (await server.http.get("/live")).json() == {"status": "live"}


async def test_a_stalled_engine_is_not_ready(start: StartServer) -> None:
    server = await start()
    server.engine.stalled_s = 61.04
    response = await server.http.get("/ready")
    assert response.status_code == 503
    assert response.json()["models"] == [{"model": "toy", "state": "stalled", "stalled_s": 61.0}]
    server.engine.stalled_s = 0.0
    assert (await server.http.get("/ready")).status_code == 200


async def test_what_is_wrong_with_a_dialect_is_told_and_does_no_harm(start: StartServer) -> None:
    problem = "the dialect 'x' does not read what the template writes"
    server = await start(dialect=Dialect(problems=(problem,)))
    response = await server.http.get("/ready")
    assert response.status_code == 200
    assert response.json()["models"] == [{"model": "toy", "state": "ready", "warnings": [problem]}]


async def test_models(start: StartServer) -> None:
    server = await start()
    listed = (await server.http.get("/v1/models")).json()
    assert listed["object"] == "list"
    (card,) = listed["data"]
    Model.model_validate(card, strict=True)
    assert card["created"] == 1_700_000_000
    assert card["max_model_len"] == 100_000
    for name in ("toy", "org/toy", "org%2Ftoy"):
        assert (await server.http.get(f"/v1/models/{name}")).json() == card


async def test_version_and_metrics(start: StartServer) -> None:
    from llmplug import __version__

    server = await start(speak("abc", cached=1))
    assert (await server.http.get("/version")).json() == {"version": __version__}
    await server.complete(prompt="xy")
    await server.complete(prompt="xy", temperature=9)
    expected = {
        'llmplug_ready{model="toy"}': 1,
        'llmplug_running{model="toy"}': 3,
        'llmplug_cache_pages_used{model="toy"}': 4,
        'llmplug_engine_seconds_total{model="toy",phase="schedule"}': 0.5,
        'llmplug_engine_seconds_total{model="toy",phase="run"}': 12,
        'llmplug_engine_seconds_total{model="toy",phase="sample"}': 0,
        'llmplug_engine_seconds_total{model="toy",phase="record"}': 0,
        'llmplug_generations_total{model="toy",outcome="done"}': 1,
        'llmplug_generations_total{model="toy",outcome="error"}': 1,
        'llmplug_completion_tokens_total{model="toy"}': 4,
        'llmplug_cached_prompt_tokens_total{model="toy"}': 1,
        'llmplug_time_to_first_token_seconds_count{model="toy"}': 1,
        'llmplug_responses_total{code="",route="/v1/completions",status="200"}': 1,
        'llmplug_responses_total{code="invalid_value",route="/v1/completions",status="400"}': 1,
    }
    for name, value in expected.items():
        assert await server.metric(name) == f"{name} {float(value)}"
    private = await start(metrics=False)
    assert (await private.http.get("/metrics")).status_code == 404


async def test_what_requests_take_is_told_and_given_back(start: StartServer) -> None:
    async def read_tables() -> list[float]:
        names = ("requests_running", "prompts_waiting", "bodies_bytes", "generations_running")
        return [float((await server.metric(f"llmplug_{name}")).split()[-1]) for name in names]

    server = await start(endless(asyncio.Event()))
    assert await read_tables() == [0, 0, 0, 0]
    server.engine.script = never_start
    asked = asyncio.create_task(server.complete(prompt=["a", "b"]))
    await until(lambda: server.num_in_flight == 1)
    running, waiting, num_bytes, generations = await read_tables()
    assert (running, waiting, generations) == (1, 2, 1)
    assert 20 < num_bytes < 200
    asked.cancel()
    await until(lambda: server.num_in_flight == 0)
    async with asyncio.timeout(10):
        while await read_tables() != [0, 0, 0, 0]:  # noqa: ASYNC110 - a server answers
            await asyncio.sleep(0.002)


async def test_full_queue_says_when_to_come_back(start: StartServer) -> None:
    gate = asyncio.Event()
    server = await start(endless(gate), max_waiting_requests=2)
    server.engine.script = never_start
    waiting = [asyncio.create_task(server.complete(stop="abab")) for _ in range(2)]
    await until(lambda: server.app.ctx.admission.num_waiting == 2)
    refused = await server.complete()
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert (await server.complete(prompt=["a", "b", "c"])).status_code == 429
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await until(lambda: server.app.ctx.admission.num_waiting == 0)
    server.engine.script = speak("x")
    assert (await server.complete()).status_code == 200


def never_start(request: Any) -> Any:
    from .fake_engine import silent

    return silent(request)


async def test_drain_lets_streams_finish(start: StartServer) -> None:
    gate = asyncio.Event()
    server = await start(endless(gate))
    stream = asyncio.create_task(server.chat(stream=True, stop="bababa"))
    await until(lambda: server.engine.num_open == 1)
    drain = asyncio.create_task(server.app.ctx.lifecycle.drain(10))
    await until(lambda: server.app.ctx.lifecycle.is_draining)
    ready = await server.http.get("/ready")
    assert (ready.status_code, ready.json()["status"]) == (503, "draining")
    assert (await server.http.get("/live")).status_code == 200
    refused = await server.chat()
    assert refused.status_code == 503
    assert refused.headers["Retry-After"] == "5"
    gate.set()
    events = parse_events((await stream).text)
    assert joined_text(events) == "a"
    assert events[-1]["choices"][0]["finish_reason"] == "stop"
    await drain


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_drain_ends_what_does_not_finish(start: StartServer, is_streamed: bool) -> None:
    server = await start(endless())
    reply = asyncio.create_task(server.chat(stream=is_streamed))
    await until(lambda: server.engine.num_open == 1)
    await server.app.ctx.lifecycle.drain(0.05)
    await server.app.ctx.lifecycle.end()
    response = await reply
    if is_streamed:
        error = parse_events(response.text)[-1]["error"]
    else:
        assert response.status_code == 503
        error = response.json()["error"]
    assert error["code"] == "engine_unavailable"
    assert "shutting down" in error["message"]
    assert server.engine.num_open == 0


async def test_silent_streams_show_signs_of_life(
    start: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt that takes long: 200 and comments leave before the first token."""
    monkeypatch.setattr(answer, "STATUS_GRACE_S", 0.01)
    monkeypatch.setattr(sse, "HEARTBEAT_S", 0.01)
    gate = asyncio.Event()

    async def late(request: Any) -> Any:
        await gate.wait()
        async for delta in speak("abc")(request):
            yield delta

    server = await start(late)
    body = {"model": "toy", "prompt": "a", "stream": True}
    async with server.http.stream("POST", "/v1/completions", json=body) as response:
        received = ""
        async for text in response.aiter_text():
            received += text
            if received.count(": keep-alive\n\n") == 3:
                gate.set()
    assert received.startswith(": keep-alive\n\n" * 3)
    assert joined_text(parse_events(received)) == "abc"


async def test_serve_stops_when_no_engine_can_start() -> None:
    engine = FakeEngine()
    engine.failure = CheckpointError("model.bin is truncated")
    service = Service([ModelService("toy", TOKENIZER, None, engine)])
    settings = ServerConfig(port=0)
    with pytest.raises(CheckpointError, match="truncated"):
        await app_module._serve(create_app(service, settings), settings)
    assert engine.is_stopped


async def test_signals_drain_then_force(monkeypatch: pytest.MonkeyPatch) -> None:
    reactions: list[Any] = []
    monkeypatch.setattr(app_module, "_on_signals", reactions.append)
    engine = FakeEngine(endless())
    service = Service([ModelService("toy", TOKENIZER, None, engine)])
    sock = socket.create_server(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    sock.close()
    settings = ServerConfig(port=port, drain_s=60)
    app = create_app(service, settings)
    serving = asyncio.create_task(app_module._serve(app, settings))
    await until(lambda: service.is_ready)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = b'{"model":"toy","prompt":"a","stream":true}'
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    await until(lambda: engine.num_open == 1)
    reactions[0]()
    await until(lambda: app.ctx.lifecycle.is_draining)
    reactions[0]()
    async with asyncio.timeout(10):
        await serving
        received = await reader.read()
    writer.close()
    assert engine.is_stopped
    assert received.count(b"data: [DONE]") == 1
    assert b'"code":"engine_unavailable"' in received
