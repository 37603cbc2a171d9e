"""Default deny: every route of the live table needs a key, the probes aside."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from llmplug.server.record import PROBE_PATHS

from .conftest import StartServer
from .fake_engine import speak

KEYS = ("first-key-0123456789", "second-key-0123456789")


async def test_every_route_needs_a_key(start: StartServer) -> None:
    server = await start(api_keys=KEYS)
    routes = [(method, route) for route in server.app.router.routes for method in route.methods]
    assert len(routes) >= 9
    for method, route in routes:
        path = "/" + route.path.replace("<model:path>", "toy")
        response = await server.http.request(method, path)
        if path in PROBE_PATHS:
            assert response.status_code == 200
            continue
        assert response.status_code == 401
        assert response.headers["WWW-Authenticate"] == "Bearer"
        if method != "HEAD":
            body = response.json()
            if path.startswith("/v2/"):  # Cohere's shape
                assert "API key" in body["message"]
            elif path.startswith("/v1/messages"):
                assert body["error"]["type"] == "authentication_error"
            else:
                assert body["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    "path",
    ["/live/", "//live", "/LIVE", "/%6cive", "/nowhere", "/live/../v1/models", "/v1/models/", "/"],
)
async def test_odd_spellings_need_a_key(start: StartServer, path: str) -> None:
    server = await start(api_keys=KEYS)
    reader, writer = await asyncio.open_connection(*server.host_port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEYS[0]}"},
        {"Authorization": f"bearer {KEYS[1]}"},
        {"x-api-key": KEYS[1]},
    ],
)
async def test_every_key_works(start: StartServer, headers: dict[str, str]) -> None:
    server = await start(api_keys=KEYS)
    assert (await server.http.get("/v1/models", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": f"Basic {KEYS[0]}"},
        {"Authorization": f"Bearer {KEYS[0]}x"},
        {"Authorization": f"Bearer {KEYS[0][:-1]}"},
        {"Authorization": "Bearer \xe9"},
        {"x-api-key": ""},
        # A wrong Authorization is not made good by another header.
        {"Authorization": "Bearer wrong", "x-api-key": KEYS[0]},
    ],
)
async def test_wrong_keys_do_not(start: StartServer, headers: dict[str, str]) -> None:
    server = await start(api_keys=KEYS)
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    assert (await server.http.get("/v1/models", headers=raw)).status_code == 401


async def test_a_key_opens_what_it_is_for(start: StartServer) -> None:
    server = await start(
        api_keys=(
            {"name": "alice", "key": "for-models"},
            {"name": "root", "key": "for-admins", "scopes": ("admin",)},
        )
    )
    fields = {"model": "toy", "prompt": "a"}
    for key, status in (("for-models", 200), ("for-admins", 403)):
        headers = {"x-api-key": key}
        response = await server.http.post("/v1/completions", json=fields, headers=headers)
        assert response.status_code == status
    assert response.json()["error"]["code"] == "insufficient_scope"
    assert [request.tenant for request in server.engine.requests] == ["alice"]


async def test_a_key_has_limits_of_its_own(start: StartServer) -> None:
    keys = ({"key": "few", "requests_per_minute": 0.5}, "many")
    server = await start(api_keys=keys)
    fields = {"model": "toy", "messages": [{"role": "user", "content": "a"}]}
    answers: dict[str, list[httpx.Response]] = {"few": [], "many": []}
    for key in ("few", "many", "few", "many"):
        headers = {"x-api-key": key}
        path = "/v1/chat/completions"
        answers[key].append(await server.http.post(path, json=fields, headers=headers))
    assert [each.status_code for each in answers["many"]] == [200, 200]
    admitted, refused = answers["few"]
    assert (admitted.status_code, refused.status_code) == (200, 429)
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert refused.headers["Retry-After"] == "60"


async def test_a_file_of_keys_is_read_when_it_changes(
    start: StartServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text("api_keys: [first]\n")
    server = await start(api_keys_file=str(path))

    async def status(key: str) -> int:
        return (await server.http.get("/v1/models", headers={"x-api-key": key})).status_code

    assert (await status("first"), await status("second")) == (200, 401)
    path.write_text("api_keys: [second]\n")
    await wait(lambda: status("second"), 200)
    assert await status("first") == 401
    path.write_text("api_keys: [oops oops]\n")
    while "stay as they were" not in caplog.text:
        assert await status("second") == 200
    assert "oops" not in caplog.text
    assert await status("second") == 200
    path.write_text("api_keys: []\n")
    await wait(lambda: status("second"), 401)
    assert await status("anything") == 401


async def wait(ask: Callable[[], Awaitable[int]], answer: int) -> None:
    async with asyncio.timeout(10):
        while await ask() != answer:  # noqa: ASYNC110 - a server answers
            await asyncio.sleep(0.05)


async def test_refused_before_the_body_is_read(start: StartServer) -> None:
    server = await start(api_keys=KEYS)
    reader, writer = await asyncio.open_connection(*server.host_port)
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: 1000000\r\n\r\n"
    )
    async with asyncio.timeout(10):
        status = await reader.readline()
    writer.close()
    assert status.startswith(b"HTTP/1.1 401 ")


async def test_prefixes_are_shared_within_a_key_only(start: StartServer) -> None:
    server = await start(api_keys=KEYS)
    for key in (*KEYS, KEYS[0]):
        response = await server.http.post(
            "/v1/completions",
            json={"model": "toy", "prompt": "a", "cache_salt": "s"},
            headers={"x-api-key": key},
        )
        assert response.status_code == 200
    first, second, third = (request.cache_salt for request in server.engine.requests)
    assert first == third != second
    assert first == hashlib.sha256(KEYS[0].encode()).hexdigest()[:16] + "/s"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
    ],
)
async def test_the_engine_is_told_whose_request_it_is(start: StartServer, path, body) -> None:
    server = await start(api_keys=KEYS)
    for key in KEYS:
        headers = {"x-api-key": key}
        response = await server.http.post(path, json={"model": "toy", **body}, headers=headers)
        assert response.status_code == 200
    tenants = [request.tenant for request in server.engine.requests]
    assert tenants == [hashlib.sha256(key.encode()).hexdigest()[:16] for key in KEYS]
    is_open = await start()
    assert (await is_open.http.post(path, json={"model": "toy", **body})).status_code == 200
    assert is_open.engine.requests[0].tenant == ""


async def test_logs_hold_neither_prompt_nor_key(
    start: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = await start(speak("private answer"), api_keys=KEYS)
    headers = {"x-api-key": KEYS[0], "X-Request-Id": "the-id"}
    for is_streamed in (False, True):
        await server.http.post(
            "/v1/completions",
            json={"model": "toy", "prompt": "private prompt", "stream": is_streamed},
            headers=headers,
        )
    await server.http.get("/live")
    await server.http.get("/nowhere?private=1", headers={"x-api-key": "private"})
    ours = [record for record in caplog.records if record.name.startswith("llmplug")]
    assert not any("private" in record.getMessage() for record in ours)
    assert not any(KEYS[0] in record.getMessage() for record in ours)
    lines = [record.getMessage() for record in ours if record.name == "llmplug.access"]
    assert len(lines) == 3
    assert all(
        line.startswith("id=the-id method=POST route=/v1/completions status=200 ms=")
        and line.endswith("model=toy prompt=14 cached=0 completion=15 error=-")
        for line in lines[:2]
    )
    assert "route=- status=401" in lines[2]
    assert lines[2].endswith("error=invalid_api_key")
