"""Batches whose server ends, stands still, or comes again; and that are ended themselves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import openai
import pytest

from llmplug.config import BatchesConfig
from llmplug.errors import EngineUnavailable
from llmplug.server.batches import dispatch, objects
from llmplug.server.batches.lines import read_lines
from llmplug.types import GenerateRequest, SequenceDelta

from .batch_client import read_answers, start_batch, wait_over, write_lines
from .conftest import DEADLINE_S, StartServer, chat_fields, until
from .fake_engine import fail_after, silent, speak


@pytest.mark.parametrize("status", ["cancelled", "expired"])
async def test_unanswered_lines_are_told(
    start: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    """What was answered before stays answered."""
    if status == "expired":
        monkeypatch.setattr(objects, "WINDOW_S", 1)
    monkeypatch.setattr(dispatch, "RETRY_S", 0.01)
    server = await start(speak("Hello"), batches=BatchesConfig(path=str(tmp_path), at_once=1))
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        first, later = speak("Hello"), fail_after(EngineUnavailable("Not now."))

        def script(request: GenerateRequest) -> AsyncGenerator[SequenceDelta, None]:
            return first(request) if len(server.engine.requests) == 1 else later(request)

        server.engine.script = script
        batch = await start_batch(client, write_lines(*[chat_fields()] * 4))
        await until(lambda: len(server.engine.requests) > 3)
        if status == "cancelled":
            assert (await client.batches.cancel(batch.id)).status == "cancelling"
        batch = await wait_over(client, batch.id)
        assert batch.status == status
        assert (batch.cancelling_at is None) == (status == "expired")
        assert list(await read_answers(client, batch.output_file_id)) == ["line-0"]
        errors = await read_answers(client, batch.error_file_id)
        with pytest.raises(openai.ConflictError):
            await client.batches.cancel(batch.id)
    assert {key: line["error"]["code"] for key, line in errors.items()} == {
        f"line-{i}": f"batch_{status}" for i in (1, 2, 3)
    }
    assert {line["response"] for line in errors.values()} == {None}


async def test_batch_of_a_live_server_is_left_alone(start: StartServer, tmp_path: Path) -> None:
    settings = BatchesConfig(path=str(tmp_path))
    first = await start(silent, batches=settings)
    async with openai.AsyncOpenAI(base_url=f"{first.url}/v1", api_key="none") as client:
        batch = await start_batch(client, write_lines(chat_fields()))
        await until(lambda: first.engine.num_open == 1)
    second = await start(speak("Hello"), batches=settings)
    async with openai.AsyncOpenAI(base_url=f"{second.url}/v1", api_key="none") as client:
        with pytest.raises(openai.ConflictError):
            await client.batches.cancel(batch.id)
        with pytest.raises(openai.ConflictError):  # which still reads it
            await client.files.delete(batch.input_file_id)
        await first.app.ctx.batch_runs.stop()
        assert second.engine.requests == []
        # It is gone now: whoever comes next, or is asked, takes over.
        await second.app.ctx.batch_runs.resume()
        batch = await wait_over(client, batch.id)
        assert list(await read_answers(client, batch.output_file_id)) == ["line-0"]
        await client.files.delete(batch.input_file_id)


async def test_batch_waits_for_a_server_with_its_model(start: StartServer, tmp_path: Path) -> None:
    settings = BatchesConfig(path=str(tmp_path))
    first = await start(silent, batches=settings)
    async with openai.AsyncOpenAI(base_url=f"{first.url}/v1", api_key="none") as client:
        batch = await start_batch(client, write_lines(chat_fields()))
        await until(lambda: first.engine.num_open == 1)
    second = await start(speak("Hello"), batches=settings)
    model = second.service._by_name.pop("toy")
    await first.app.ctx.batch_runs.stop()
    await second.app.ctx.batch_runs.resume()
    body = (await second.http.get(f"/v1/batches/{batch.id}")).json()
    assert body["status"] == "in_progress"
    second.service._by_name["toy"] = model
    await second.app.ctx.batch_runs.resume()
    async with openai.AsyncOpenAI(base_url=f"{second.url}/v1", api_key="none") as client:
        assert (await wait_over(client, batch.id)).status == "completed"


async def test_killed_while_it_says_how_it_ended(
    start: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are there, and nothing says so yet: the next server makes them once more."""
    settings = BatchesConfig(path=str(tmp_path))
    first = await start(speak("Hello"), batches=settings)
    has_tried = asyncio.Event()

    async def die(_: Any) -> None:
        has_tried.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(first.app.ctx.batches, "finish", die)
    async with openai.AsyncOpenAI(base_url=f"{first.url}/v1", api_key="none") as client:
        bodies = [chat_fields(), chat_fields(temperature=9)]
        batch = await start_batch(client, write_lines(*bodies))
        await asyncio.wait_for(has_tried.wait(), DEADLINE_S)
    await first.app.ctx.batch_runs.stop()
    second = await start(silent, batches=settings)
    async with openai.AsyncOpenAI(base_url=f"{second.url}/v1", api_key="none") as client:
        batch = await wait_over(client, batch.id)
        assert batch.status == "completed"
        assert list(await read_answers(client, batch.output_file_id)) == ["line-0"]
        assert list(await read_answers(client, batch.error_file_id)) == ["line-1"]
        assert len([file async for file in client.files.list(purpose="batch_output")]) == 2


async def test_lines_leave_places_for_requests(start: StartServer, tmp_path: Path) -> None:
    settings = BatchesConfig(path=str(tmp_path))
    server = await start(silent, batches=settings, max_waiting_requests=8)
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        await start_batch(client, write_lines(*[chat_fields()] * 9))
        await until(lambda: server.engine.num_open == 2)
        server.engine.script = speak("Hello")
        assert (await server.chat()).status_code == 200
        assert server.engine.num_open == 2
    await server.app.ctx.batch_runs.stop()


async def test_damaged_database_leaves_the_rest(start: StartServer, tmp_path: Path) -> None:
    await asyncio.to_thread((tmp_path / "batches.sqlite").write_bytes, b"no database" * 100)
    server = await start(batches=BatchesConfig(path=str(tmp_path)))
    assert (await server.chat()).status_code == 200
    reply = await server.http.get("/v1/batches")
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "store_failed")


async def test_a_response_that_is_asked_again_is_stored_once(start: StartServer) -> None:
    """As after a crash between the response and the answer to its line."""
    server = await start(speak("Hello"))
    data = write_lines(*[{"model": "toy", "input": "Hi"}] * 2, url="/v1/responses")
    (first, second), problems = read_lines(data, "/v1/responses")
    assert problems == []
    told = [
        await dispatch.answer_line(server.app, "", line, lambda: False, "batch_x")
        for line in (first, first, second, second)
    ]
    bodies = [answer.body for answer in told if answer is not None]
    assert bodies[0] == bodies[1] != bodies[2] == bodies[3]
    assert len(server.engine.requests) == 2
    for body in bodies:
        assert (await server.http.get(f"/v1/responses/{body['id']}")).json() == body
    other = await dispatch.answer_line(server.app, "", first, lambda: False, "batch_y")
    assert other is not None
    assert other.body["id"] != bodies[0]["id"]
