"""Files and batches with the official client, as its users use them, over a scripted engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import Batch, FileObject

from llmplug.config import BatchesConfig, KeyConfig
from llmplug.errors import EngineUnavailable
from llmplug.server.batches import dispatch

from .batch_client import CHAT, read_answers, start_batch, wait_over, write_lines
from .conftest import Running, StartServer, chat_fields, until
from .fake_engine import endless, fail_after, speak
from .strict_openai import check_openai


@pytest.fixture
async def server(start: StartServer, tmp_path: Path) -> Running:
    return await start(speak("Hello"), batches=BatchesConfig(path=str(tmp_path)))


@pytest.fixture
async def client(server: Running) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=10
    ) as client:
        yield client


async def test_chats(server: Running, client: openai.AsyncOpenAI) -> None:
    bodies = [chat_fields(max_tokens=1 + i) for i in range(20)]
    batch = await start_batch(client, write_lines(*bodies), metadata={"a": "b"})
    batch = await wait_over(client, batch.id)
    assert (batch.status, batch.error_file_id, batch.metadata) == ("completed", None, {"a": "b"})
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 20, "completed": 20, "failed": 0}
    answers = await read_answers(client, batch.output_file_id)
    assert list(answers) == [f"line-{i}" for i in range(20)]
    single = (await server.chat(max_tokens=1)).json()
    told = answers["line-0"]["response"]["body"]
    assert {**told, "id": "", "created": 0} == {**single, "id": "", "created": 0}


@pytest.mark.parametrize(
    ("endpoint", "body", "key"),
    [
        ("/v1/completions", {"model": "toy", "prompt": "Hi"}, "choices"),
        ("/v1/responses", {"model": "toy", "input": "Hi"}, "output"),
    ],
)
async def test_other_endpoints(
    client: openai.AsyncOpenAI, endpoint: Any, body: dict[str, Any], key: str
) -> None:
    batch = await start_batch(client, write_lines(body, url=endpoint), endpoint)
    batch = await wait_over(client, batch.id)
    answers = await read_answers(client, batch.output_file_id)
    assert "Hello" in json.dumps(answers["line-0"]["response"]["body"][key])


async def test_embeddings(start: StartServer, tmp_path: Path) -> None:
    server = await start(task="embed", batches=BatchesConfig(path=str(tmp_path)))
    body = {"model": "toy", "input": "Hi", "encoding_format": "float"}
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        data = write_lines(body, url="/v1/embeddings")
        batch = await start_batch(client, data, "/v1/embeddings")
        batch = await wait_over(client, batch.id)
        answers = await read_answers(client, batch.output_file_id)
    single = (await server.http.post("/v1/embeddings", json=body)).json()
    assert answers["line-0"]["response"]["body"] == single


async def test_objects_are_openai_s(server: Running, client: openai.AsyncOpenAI) -> None:
    batch = await start_batch(client, write_lines(chat_fields()))
    await wait_over(client, batch.id)
    for path, kind in (
        (f"batches/{batch.id}", Batch),
        (f"files/{batch.input_file_id}", FileObject),
    ):
        check_openai((await server.http.get(f"/v1/{path}")).json(), kind)


async def test_wrong_lines_are_told_in_the_error_file(client: openai.AsyncOpenAI) -> None:
    bodies = [chat_fields(), chat_fields(temperature=9), {"model": "other", "messages": []}]
    batch = await wait_over(client, (await start_batch(client, write_lines(*bodies))).id)
    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 3, "completed": 1, "failed": 2}
    assert list(await read_answers(client, batch.output_file_id)) == ["line-0"]
    errors = await read_answers(client, batch.error_file_id)
    assert [
        (each["response"]["status_code"], each["response"]["body"]["error"]["param"])
        for each in errors.values()
    ] == [(400, "temperature"), (404, "model")]


@pytest.mark.parametrize(
    ("line", "code", "param"),
    [
        (b"{", "invalid_json_line", None),
        (b"[]", "invalid_json_line", None),
        (b"\xff", "invalid_json_line", None),
        (write_lines({})[:-1].replace(b"line-0", b""), "invalid_request", "custom_id"),
        (write_lines({})[:-1].replace(b"POST", b"GET"), "invalid_request", "method"),
        (write_lines({}, url="/v1/embeddings")[:-1], "invalid_request", "url"),
        (write_lines([])[:-1], "invalid_request", "body"),
        (write_lines({"stream": True})[:-1], "invalid_request", "body.stream"),
        (write_lines({"background": True})[:-1], "invalid_request", "body.background"),
        (write_lines({})[:-1], "duplicate_custom_id", "custom_id"),
    ],
)
async def test_wrong_input(
    server: Running, client: openai.AsyncOpenAI, line: bytes, code: str, param: str | None
) -> None:
    data = write_lines(chat_fields()) + b"\n" + line
    batch = await wait_over(client, (await start_batch(client, data)).id)
    assert batch.status == "failed"
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert [(each.code, each.line, each.param) for each in batch.errors.data] == [(code, 3, param)]
    assert server.engine.requests == []  # nothing of it was asked


async def test_empty_input(client: openai.AsyncOpenAI) -> None:
    batch = await wait_over(client, (await start_batch(client, b"\n")).id)
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert batch.errors.data[0].code == "empty_file"


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"endpoint": "/v1/models"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"input_file_id": "file-none"}, "input_file_id"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after"),
        ({"unheard_of": 1}, "unheard_of"),
    ],
)
async def test_refused_batches(
    server: Running, client: openai.AsyncOpenAI, changes: dict[str, Any], param: str
) -> None:
    file = await client.files.create(file=("in.jsonl", write_lines({})), purpose="batch")
    fields = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h", **changes}
    reply = await server.http.post("/v1/batches", json=fields)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"].startswith(param)


async def test_lines_come_after_requests(server: Running, client: openai.AsyncOpenAI) -> None:
    bodies = [chat_fields(), chat_fields(priority=-5), chat_fields(priority=2000)]
    await wait_over(client, (await start_batch(client, write_lines(*bodies))).id)
    priorities = sorted(request.priority for request in server.engine.requests)
    assert priorities == [dispatch.PRIORITY, dispatch.PRIORITY, 2000]


async def test_few_lines_at_once(start: StartServer, tmp_path: Path) -> None:
    """Of all batches together."""
    gate = asyncio.Event()
    settings = BatchesConfig(path=str(tmp_path), at_once=3)
    server = await start(endless(gate), batches=settings)
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        batches = [await start_batch(client, write_lines(*[chat_fields()] * 9)) for _ in range(2)]
        await until(lambda: server.engine.num_open == 3)
        assert (await server.http.get("/v1/models")).status_code == 200
        assert server.engine.num_open == 3
        for batch in batches:
            await client.batches.cancel(batch.id)
        server.engine.script = speak("Hello")
        gate.set()
        for request in server.engine.requests:
            await server.engine.abort(request.request_id)
    await server.app.ctx.batch_runs.stop()


async def test_lack_of_room_is_waited_for(
    server: Running, client: openai.AsyncOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "RETRY_S", 0.01)
    server.engine.script = fail_after(EngineUnavailable("It is being started again."))
    batch = await start_batch(client, write_lines(chat_fields()))
    await until(lambda: len(server.engine.requests) > 3)
    server.engine.script = speak("Hello")
    batch = await wait_over(client, batch.id)
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 1, "completed": 1, "failed": 0}


async def test_lists(client: openai.AsyncOpenAI) -> None:
    batches = [await start_batch(client, write_lines(chat_fields())) for _ in range(3)]
    for batch in batches:
        await wait_over(client, batch.id)
    wanted = [batch.id for batch in reversed(batches)]
    assert [batch.id async for batch in client.batches.list(limit=2)] == wanted
    inputs = [file.id async for file in client.files.list(purpose="batch", order="asc", limit=2)]
    assert inputs == [batch.input_file_id for batch in batches]
    assert len([file async for file in client.files.list()]) == 6


async def test_each_key_sees_its_own(start: StartServer, tmp_path: Path) -> None:
    keys = tuple(KeyConfig(key=key) for key in ("one-secret-key", "two-secret-key"))
    server = await start(batches=BatchesConfig(path=str(tmp_path)), api_keys=keys)
    one, two = [
        openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)
        for key in ("one-secret-key", "two-secret-key")
    ]
    async with one, two:
        batch = await wait_over(one, (await start_batch(one, write_lines(chat_fields()))).id)
        assert batch.output_file_id is not None
        for call in (
            two.batches.retrieve(batch.id),
            two.batches.cancel(batch.id),
            two.files.retrieve(batch.input_file_id),
            two.files.content(batch.output_file_id),
            two.files.delete(batch.output_file_id),
        ):
            with pytest.raises(openai.NotFoundError):
                await call
        with pytest.raises(openai.BadRequestError):
            await two.batches.create(
                input_file_id=batch.input_file_id, endpoint=CHAT, completion_window="24h"
            )
        assert [each async for each in two.batches.list()] == []
        assert [each async for each in two.files.list()] == []
        assert len([each async for each in one.files.list()]) == 2


async def test_only_its_user_may_read_what_is_kept(
    server: Running, client: openai.AsyncOpenAI, tmp_path: Path
) -> None:
    await wait_over(client, (await start_batch(client, write_lines(chat_fields()))).id)
    modes = read_modes(tmp_path)
    assert len(modes) > 3
    assert not any(mode & 0o077 for mode in modes)


def read_modes(folder: Path) -> list[int]:
    """The permissions of all files in a folder."""
    return [path.stat().st_mode for path in folder.rglob("*") if path.is_file()]
