"""The admin listener answers whatever the main one is busy with, and whoever may ask."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from llmplug.config import AdminConfig
from llmplug.errors import ConfigError
from llmplug.server.admin import make_routes, open_admin
from llmplug.server.record import PROBE_PATHS

from .admin_calls import HERE, ask
from .conftest import StartServer


async def test_it_answers_while_the_loop_hangs(start: StartServer) -> None:
    server = await start()
    started = time.perf_counter()
    live, ready, health, version, metrics, stacks = ask(  # this blocks the server's own loop
        server,
        *(("GET", path) for path in ("/live", "/ready", "/health", "/version", "/metrics")),
        ("GET", "/stacks"),
    )
    assert time.perf_counter() - started < 5
    assert live.json() == {"status": "live"}
    assert (
        ready.json()
        == health.json()
        == {
            "status": "ready",
            "models": [{"model": "toy", "state": "ready"}],
        }
    )
    assert version.json()["version"]
    assert "llmplug_ready" in metrics.text
    assert "test_it_answers_while_the_loop_hangs" in stacks.text


async def test_unknown_paths_and_methods(start: StartServer) -> None:
    server = await start()
    answers = ask(server, ("GET", "/v1/models"), ("POST", "/live"), ("DELETE", "/live"))
    assert [answer.status_code for answer in answers] == [404, 404, 501]
    assert answers[0].json()["error"]["code"] == "unknown_url"


async def test_a_key_with_the_scope_is_asked_for_where_there_is_one(start: StartServer) -> None:
    server = await start(api_keys=("plain", {"key": "root", "scopes": ("admin",)}))
    paths = [("GET", "/live"), ("GET", "/metrics"), ("POST", "/reload")]
    statuses = {
        key: [answer.status_code for answer in ask(server, *paths, key=key)]
        for key in ("", "plain", "root")
    }
    assert statuses == {"": [200, 401, 401], "plain": [200, 403, 403], "root": [200, 200, 200]}


async def test_every_lever_needs_the_key(start: StartServer) -> None:
    server = await start(api_keys=("plain", {"key": "root", "scopes": ("admin",)}))
    routes = [route for route in make_routes(server.app) if route[1] not in PROBE_PATHS]
    assert len(routes) >= 7
    for key, status in (("", 401), ("wrong", 401), ("plain", 403)):
        answers = ask(server, *routes, key=key)
        assert [answer.status_code for answer in answers] == [status] * len(routes)
    assert not server.app.ctx.lifecycle.is_draining


async def test_admin_routes_are_not_on_the_main_listener(start: StartServer) -> None:
    server = await start()
    assert (await server.http.get("/stacks")).status_code == 404
    assert (await server.http.post("/reload", json={})).status_code == 404


async def test_reload_says_what_is_wrong_and_changes_nothing(
    start: StartServer, tmp_path: Path
) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text("api_keys: [first]\n")
    server = await start(api_keys_file=str(path))
    path.write_text("api_keys: [first, second second]\n")
    (refused,) = ask(server, ("POST", "/reload"))
    assert refused.status_code == 409
    assert "api_keys.1.key" in refused.json()["error"]["message"]
    assert "second second" not in refused.text
    path.write_text("api_keys: [second]\n")
    (done,) = ask(server, ("POST", "/reload"))
    assert done.status_code == 200
    for key, status in (("first", 401), ("second", 200)):
        response = await server.http.get("/v1/models", headers={"x-api-key": key})
        assert response.status_code == status


async def test_others_are_let_in_with_a_key_only(start: StartServer) -> None:
    server = await start(api_keys=("plain",))
    with pytest.raises(ConfigError, match=r"server.admin.host.*scope 'admin'"):
        open_admin(server.app, AdminConfig(host="0.0.0.0", port=0))


async def test_none_by_default(start: StartServer) -> None:
    server = await start()
    assert open_admin(server.app, AdminConfig()) is None


async def test_a_silent_connection_is_closed(
    start: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmplug.server.admin._Handler.timeout", 0.2)
    server = await start()
    admin = open_admin(server.app, HERE)
    assert admin is not None
    reader, writer = await asyncio.open_connection(*admin.address)
    async with asyncio.timeout(10):
        assert await reader.read() == b""
    writer.close()
    await asyncio.to_thread(admin.close)
