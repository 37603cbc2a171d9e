"""Files: what may be uploaded, how long it is kept, and how much of it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from llmplug.config import BatchesConfig, KeyConfig
from llmplug.errors import InvalidRequest
from llmplug.server.form import read_form

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


def write_expiry(seconds: str) -> dict[str, str]:
    return {"expires_after[anchor]": "created_at", "expires_after[seconds]": seconds}


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
        ({"expires_after[seconds]": "3600"}, "expires_after.anchor"),
        ({"expires_after[anchor]": "created_at"}, "expires_after.seconds"),
        (write_expiry("1"), "expires_after.seconds"),
        (write_expiry("9" * 30), "expires_after.seconds"),
        (write_expiry("²"), "expires_after.seconds"),
    ],
)
async def test_refused(server: Running, form: dict[str, str], param: str) -> None:
    reply = await upload(server, form=form)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


NAMED = b'Content-Disposition: form-data; name="%s"\r\n\r\n%s\r\n--b'
FORM_HEAD = {"Content-Type": "multipart/form-data; boundary=b"}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"no form", "invalid_form"),
        (b"--b\r\n", "invalid_form"),
        (b"--b--\r\n", "missing_required_parameter"),
        (b"--b\r\n\r\n\r\n--b--\r\n", "invalid_form"),
        (b"--b\r\n" + NAMED % (b"file", b"x"), "invalid_form"),
        (b"--b\r\n" + NAMED % (b"file", b"x") + b"--", "missing_required_parameter"),
        (b"--b" + (b"\r\n" + NAMED % (b"file", b"x")) * 2 + b"--", "invalid_form"),
        (b"--b" + b"\r\nX: y" * 1000 + b"\r\n" + NAMED % (b"file", b"") + b"--", "invalid_form"),
        (
            b"--b\r\n" + b'Content-Disposition: form-data; filename="a"\r\n\r\n\r\n--b--',
            "invalid_form",
        ),
        (b"\xff" * 100, "invalid_form"),
    ],
)
async def test_wrong_forms(server: Running, body: bytes, code: str) -> None:
    reply = await server.http.post("/v1/files", content=body, headers=FORM_HEAD)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, code)


def test_many_parts_are_not_read() -> None:
    """They would stop everybody else for as long as it takes."""
    names = [b"%d" % i for i in range(100_000)]
    body = b"--b" + b"".join(b"\r\n" + NAMED % (name, b"") for name in names) + b"--"
    with pytest.raises(InvalidRequest, match="too many parts"):
        read_form(FORM_HEAD["Content-Type"], body)
    few = b"--b" + b"".join(b"\r\n" + NAMED % (name, name) for name in names[:16]) + b"--"
    found = read_form(FORM_HEAD["Content-Type"], few)
    assert {part.name: part.text for part in found.values()} == {str(i): str(i) for i in range(16)}


async def test_unknown_fields_are_told(server: Running) -> None:
    reply = await upload(server, form={"colour": "red"})
    assert (reply.status_code, reply.headers["X-Llmplug-Ignored"]) == (200, "colour")


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


async def test_nothing_without_a_key(start: StartServer, tmp_path: Path) -> None:
    keys = (KeyConfig(key="a-secret-key"),)
    server = await start(batches=BatchesConfig(path=str(tmp_path)), api_keys=keys)
    found = [route for route in server.app.router.routes if route.path.startswith("v1/files")]
    found += [route for route in server.app.router.routes if route.path.startswith("v1/batches")]
    assert len(found) == 9
    for route in found:
        for method in route.methods:
            reply = await server.http.request(method, f"/{route.path}")
            assert reply.status_code == 401, (method, route.path)
