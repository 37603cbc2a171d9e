"""Files: what may be uploaded, how long it is kept, and how much of it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from llmplug.config import BatchesConfig

from .conftest import Running, StartServer

DATA = "ä\r\n--x\r\n".encode() * 1000


@pytest.fixture
async def server(start: StartServer, tmp_path: Path) -> Running:
    settings = BatchesConfig(path=str(tmp_path), max_bytes=50_000, max_file_bytes=40_000)
    return await start(batches=settings, max_body_bytes=1000)


@pytest.fixture
async def client(server: Running) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=10
    ) as client:
        yield client


async def upload(
    server: Running, data: bytes = b"{}", form: dict[str, str] | None = None
) -> httpx.Response:
    return await server.http.post(
        "/v1/files", files={"file": ("a.jsonl", data)}, data={"purpose": "batch", **(form or {})}
    )


async def test_what_comes_back_is_what_was_sent(client: openai.AsyncOpenAI) -> None:
    """A file may be larger than other bodies."""
    file = await client.files.create(file=("ä.jsonl", DATA), purpose="batch")
    assert (file.bytes, file.filename, file.status) == (len(DATA), "ä.jsonl", "processed")
    assert await client.files.retrieve(file.id) == file
    assert (await client.files.content(file.id)).content == DATA
    assert (await client.files.delete(file.id)).deleted
    with pytest.raises(openai.NotFoundError):
        await client.files.content(file.id)


async def test_body_after_an_upload_is_bounded_as_ever(server: Running) -> None:
    """On the same connection."""
    assert (await upload(server, DATA)).status_code == 200
    reply = await server.http.post("/v1/batches", json={"input_file_id": "x" * 2000})
    assert reply.status_code == 413


async def test_too_large(server: Running) -> None:
    assert (await upload(server, b"x" * 41_000)).status_code == 413


async def test_storage_is_bounded(server: Running, client: openai.AsyncOpenAI) -> None:
    first = (await upload(server, b"x" * 30_000)).json()
    reply = await upload(server, b"x" * 30_000)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "storage_full")
    await client.files.delete(first["id"])
    assert (await upload(server, b"x" * 30_000)).status_code == 200


async def test_expiry(
    server: Running, client: openai.AsyncOpenAI, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = await client.files.create(
        file=("a.jsonl", b"x" * 30_000),
        purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert made.expires_at is not None
    assert abs(made.expires_at - made.created_at - 3600) <= 1
    assert (tmp_path / "files" / made.id).exists()
    later = time.time() + 3601
    monkeypatch.setattr(time, "time", lambda: later)
    with pytest.raises(openai.NotFoundError):
        await client.files.retrieve(made.id)
    await upload(server, b"x" * 30_000)  # there is room again
    assert not (tmp_path / "files" / made.id).exists()


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"purpose": "fine-tune"}, "purpose"),
        ({"expires_after[seconds]": "1"}, "expires_after.seconds"),
        ({"expires_after[seconds]": "9" * 30}, "expires_after.seconds"),
        ({"expires_after[seconds]": "²"}, "expires_after.seconds"),
    ],
)
async def test_refused(server: Running, form: dict[str, str], param: str) -> None:
    reply = await upload(server, form=form)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    "body",
    [
        b"no form",
        b"--b\r\n",
        b"--b--\r\n",
        b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n--b--\r\n',
        b'--b\r\nContent-Disposition: form-data; filename="a"\r\n\r\nx\r\n--b--\r\n',
        b"--b\r\n\r\n\r\n--b--\r\n",
        b"\xff" * 100,
    ],
)
async def test_forms_without_a_file(server: Running, body: bytes) -> None:
    head = {"Content-Type": "multipart/form-data; boundary=b"}
    reply = await server.http.post("/v1/files", content=body, headers=head)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] in {"file", None}


async def test_json_is_no_form(server: Running) -> None:
    reply = await server.http.post("/v1/files", json={"purpose": "batch"})
    assert reply.status_code == 415


@pytest.mark.parametrize("file_id", ["file-none", "..", "%2e%2e%2fbatches.sqlite", "file-\x00"])
async def test_unknown_file(server: Running, file_id: str) -> None:
    for path in (f"/v1/files/{file_id}", f"/v1/files/{file_id}/content"):
        reply = await server.http.get(path.replace("\x00", "%00"))
        assert reply.status_code == 404, path


async def test_none_are_served_where_the_config_says_so(start: StartServer) -> None:
    server = await start(batches=BatchesConfig(path="none"))
    for path in ("/v1/files", "/v1/batches"):
        reply: Any = await server.http.get(path)
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "unknown_url")
