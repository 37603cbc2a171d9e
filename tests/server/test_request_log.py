"""The line of a request: all that an operator asks for, and nothing that a client wrote."""

from __future__ import annotations

import json
import logging

import pytest

from llmplug.errors import EngineError
from llmplug.logs import JsonLines

from .conftest import StartServer
from .fake_engine import fail_after, speak

KEYS = ({"name": "alice", "key": "secret-1"}, "secret-2")


def lines_of(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    records = [record for record in caplog.records if record.name == "llmplug.access"]
    return [json.loads(JsonLines().format(record)) for record in records]


async def test_what_a_line_says(start: StartServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    server = await start(speak("private ", "answer", cached=2), api_keys=KEYS)
    for is_streamed in (False, True):
        body = {"model": "org/toy", "prompt": "private", "stream": is_streamed}
        headers = {"x-api-key": "secret-1", "X-Request-Id": "the-id"}
        await server.http.post("/v1/completions", json=body, headers=headers)
    for line in lines_of(caplog):
        assert {
            "id": "the-id",
            "method": "POST",
            "route": "/v1/completions",
            "status": 200,
            "key": "alice",
            "model": "toy",
            "prompt": 7,
            "cached": 2,
            "completion": 15,
            "error": None,
        }.items() <= line.items()
        assert 0 <= line["queue_ms"] <= line["first_token_ms"] <= line["ms"]  # type: ignore[operator]
    assert len(lines_of(caplog)) == 2
    assert "private" not in caplog.text
    assert "secret" not in caplog.text


async def test_errors_have_their_code(start: StartServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    server = await start(fail_after(EngineError("inside"), "a"))
    await server.complete()
    await server.complete(stream=True)
    await server.complete(model="other")
    lines = lines_of(caplog)
    assert [(line["status"], line["error"]) for line in lines] == [
        (500, "engine_error"),
        (200, "engine_error"),
        (404, "model_not_found"),
    ]
    assert lines[2]["model"] is None


async def test_probes_and_scrapes_have_none(
    start: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server = await start()
    for path in ("/live", "/ready", "/health", "/metrics", "/version"):
        await server.http.get(path)
    assert [line["route"] for line in lines_of(caplog)] == ["/version"]


async def test_lines_can_be_turned_off(
    start: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server = await start()
    server.app.ctx.logs_requests = False
    assert (await server.complete()).status_code == 200
    assert lines_of(caplog) == []
    counted = 'llmplug_responses_total{code="",route="/v1/completions",status="200"}'
    assert await server.metric(counted) == f"{counted} 1.0"
