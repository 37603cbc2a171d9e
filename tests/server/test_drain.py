"""An administrator's drain: the door closes, what runs goes on, and the door opens again."""

from __future__ import annotations

import asyncio

from .admin_calls import ask_beside
from .conftest import StartServer, until
from .fake_engine import endless
from .sse_reader import joined_text, parse_events


async def test_what_runs_finishes_and_new_ones_are_refused_until_resume(
    start: StartServer,
) -> None:
    gate = asyncio.Event()
    server = await start(endless(gate))
    stream = asyncio.create_task(server.chat(stream=True, stop="bababa"))
    await until(lambda: server.engine.num_open == 1)
    (drained,) = await ask_beside(server, ("POST", "/drain"))
    assert drained.json() == {"status": "draining", "running": 1}
    ready = await server.http.get("/ready")
    assert (ready.status_code, ready.json()["status"]) == (503, "draining")
    assert (await server.http.get("/live")).status_code == 200
    for refused in (await server.chat(), await server.complete(), await server.chat(stream=True)):
        assert refused.status_code == 503
        assert refused.headers["Retry-After"] == "5"
        assert "takes no requests now" in refused.json()["error"]["message"]
    gate.set()
    assert joined_text(parse_events((await stream).text)) == "a"
    (idle,) = await ask_beside(server, ("POST", "/drain"))
    assert idle.json() == {"status": "draining", "running": 0}
    (resumed,) = await ask_beside(server, ("POST", "/resume"))
    assert (resumed.status_code, resumed.json()["status"]) == (200, "ready")
    assert (await server.chat(stop="bab")).status_code == 200


async def test_resume_does_not_undo_a_stop(start: StartServer) -> None:
    server = await start()
    lifecycle = server.app.ctx.lifecycle
    await lifecycle.drain(0.1)
    (resumed,) = await ask_beside(server, ("POST", "/resume"))
    assert (resumed.status_code, resumed.json()["status"]) == (503, "draining")
    refused = await server.chat()
    assert (refused.status_code, "shutting down" in refused.text) == (503, True)


async def test_a_second_drain_and_a_second_resume_do_no_harm(start: StartServer) -> None:
    server = await start()
    answers = await ask_beside(
        server, ("POST", "/drain"), ("POST", "/drain"), ("POST", "/resume"), ("POST", "/resume")
    )
    assert [answer.json()["status"] for answer in answers] == ["draining"] * 2 + ["ready"] * 2
