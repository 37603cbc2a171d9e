"""Responses in the background: they outlive their clients, and never hang."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from openai.types.responses import Response

from llmplug.config import ResponsesConfig
from llmplug.errors import EngineUnavailable
from llmplug.server.responses import background
from llmplug.server.responses.store import StoredResponse

from .conftest import DEADLINE_S, Running, StartServer, until
from .fake_engine import endless, fail_after, silent, speak
from .strict_openai import check_openai
from .test_responses import read_stream, rebuild, respond, text_item, without_ids


async def begin(server: Running, **fields: Any) -> dict[str, Any]:
    reply = await respond(server, background=True, **fields)
    assert reply.status_code == 200, reply.text
    body: dict[str, Any] = reply.json()
    check_openai(body, Response)
    assert body["background"] is True
    return body


async def show(server: Running, response_id: str) -> dict[str, Any]:
    reply = await server.http.get(f"/v1/responses/{response_id}")
    assert reply.status_code == 200, reply.text
    body: dict[str, Any] = reply.json()
    check_openai(body, Response)
    return body


async def stream(server: Running, response_id: str, after: int | None = None) -> str:
    query = {"stream": "true"} | ({} if after is None else {"starting_after": str(after)})
    reply = await server.http.get(f"/v1/responses/{response_id}", params=query)
    assert reply.status_code == 200, reply.text
    return reply.text


async def until_true(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not await condition():  # noqa: ASYNC110 - the conditions belong to others
            await asyncio.sleep(0.005)


async def ended(server: Running, response_id: str) -> dict[str, Any]:
    async def is_over() -> bool:
        return (await show(server, response_id))["status"] not in {"queued", "in_progress"}

    await until_true(is_over)
    return await show(server, response_id)


async def test_it_runs_on_alone(start: StartServer) -> None:
    gate = asyncio.Event()

    async def script(request: Any) -> Any:
        await gate.wait()
        async for delta in speak("Hello", " world")(request):
            yield delta

    server = await start(script)
    made = await begin(server)
    assert made["status"] in {"queued", "in_progress"}
    assert (await show(server, made["id"]))["status"] == "queued"
    early = await respond(server, previous_response_id=made["id"])
    assert early.json()["error"]["param"] == "previous_response_id"
    gate.set()
    body = await ended(server, made["id"])
    assert body["status"] == "completed"
    assert without_ids(body["output"]) == [text_item("Hello world")]
    assert body["usage"]["output_tokens"] == 12
    events = read_stream(await stream(server, made["id"]))
    assert [event["type"] for event in events[:3]] == [
        "response.created",
        "response.queued",
        "response.in_progress",
    ]
    assert rebuild(events) == body["output"]
    assert events[-1]["response"] == body


async def test_streamed_at_once(start: StartServer) -> None:
    server = await start(speak("Hello", " world"))
    reply = await respond(server, background=True, stream=True)
    events = read_stream(reply.text)
    body = await show(server, events[0]["response"]["id"])
    assert events[-1]["response"] == body
    assert rebuild(events) == body["output"]


async def test_client_goes_and_comes_back(start: StartServer) -> None:
    """What was read before and after the break is the whole stream."""
    gate = asyncio.Event()

    async def script(request: Any) -> Any:
        yield await anext(speak("Hel", "-")(request))
        await gate.wait()
        async for delta in speak("lo", "!")(request):
            yield delta

    server = await start(script)
    fields = {"model": "toy", "input": "Hi", "background": True, "stream": True}
    text = ""
    async with server.http.stream("POST", "/v1/responses", json=fields) as reply:
        async for piece in reply.aiter_text():
            text += piece
            if "output_text.delta" in text:
                break
    text = text[: text.rindex("\n\n") + 2]
    assert server.engine.num_open == 1
    gate.set()
    response_id = text.split('"id":"', 1)[1].split('"', 1)[0]
    number = int(text.rsplit('"sequence_number":', 1)[1].split(",", 1)[0])
    events = read_stream(text + await stream(server, response_id, number))
    assert without_ids(events[-1]["response"]["output"]) == [text_item("Hello!")]
    assert rebuild(events) == events[-1]["response"]["output"]


async def test_cancel(start: StartServer) -> None:
    server = await start(endless())
    made = await begin(server)
    reader = asyncio.create_task(stream(server, made["id"]))
    await until(lambda: server.engine.num_open == 1)
    for _ in range(2):
        reply = await server.http.post(f"/v1/responses/{made['id']}/cancel")
        check_openai(reply.json(), Response)
        assert (reply.status_code, reply.json()["status"]) == (200, "cancelled")
    assert server.engine.num_open == 0
    events = read_stream(await reader)
    assert events[-1]["type"] == "response.incomplete"
    assert events[-1]["response"]["status"] == "cancelled"
    assert await show(server, made["id"]) == events[-1]["response"]


async def test_cancel_before_a_word(start: StartServer) -> None:
    server = await start(silent)
    made = await begin(server)
    reply = await server.http.post(f"/v1/responses/{made['id']}/cancel")
    assert reply.json()["status"] == "cancelled"
    assert (await ended(server, made["id"]))["output"] == []


async def test_others_cannot_be_cancelled_or_streamed_again(start: StartServer) -> None:
    server = await start()
    path = f"/v1/responses/{(await respond(server)).json()['id']}"
    for reply in (
        await server.http.post(f"{path}/cancel"),
        await server.http.get(path, params={"stream": "true"}),
    ):
        assert reply.status_code == 400


async def test_delete_ends_it(start: StartServer) -> None:
    server = await start(endless())
    made = await begin(server)
    await until(lambda: server.engine.num_open == 1)
    reply = await server.http.delete(f"/v1/responses/{made['id']}")
    assert reply.json()["deleted"] is True
    assert server.engine.num_open == 0
    assert (await server.http.get(f"/v1/responses/{made['id']}")).status_code == 404


async def test_failure_is_kept(start: StartServer) -> None:
    server = await start(fail_after(EngineUnavailable("The engine died."), "a", "b"))
    made = await begin(server)
    body = await ended(server, made["id"])
    assert body["status"] == "failed"
    assert body["error"]["message"] == "The engine died."
    assert without_ids(body["output"]) == [text_item("ab", "incomplete")]
    assert read_stream(await stream(server, made["id"]))[-1]["type"] == "response.failed"


async def test_bad_request_is_refused_at_once(start: StartServer) -> None:
    server = await start()
    reply = await respond(server, background=True, tools=[{"type": "web_search"}])
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "tools[0].type")


async def test_drain_waits_for_it(start: StartServer) -> None:
    gate = asyncio.Event()

    async def script(request: Any) -> Any:
        await gate.wait()
        async for delta in speak("Done.")(request):
            yield delta

    server = await start(script)
    made = await begin(server)
    lifecycle = server.app.ctx.lifecycle
    drain = asyncio.create_task(lifecycle.drain(DEADLINE_S))
    await until(lambda: lifecycle.is_draining)
    assert (await respond(server, background=True)).status_code == 503
    assert not drain.done()
    gate.set()
    await drain
    assert (await show(server, made["id"]))["status"] == "completed"


async def test_shutdown_fails_what_is_left(start: StartServer) -> None:
    server = await start(endless())
    made = await begin(server)
    await until(lambda: server.engine.num_open == 1)
    await server.app.ctx.lifecycle.end()
    body = await show(server, made["id"])
    assert body["status"] == "failed"
    assert "shutting down" in body["error"]["message"]


async def test_lost_server_never_hangs_its_readers(start: StartServer) -> None:
    """A server that was killed says nothing: whoever asks finds out."""
    server = await start()
    await respond(server)
    store = server.app.ctx.responses
    body = (await begin(server)) | {"id": "resp_lost", "status": "in_progress", "output": []}
    await store.save(StoredResponse(owner="", body=body, input=[]))
    reader = asyncio.create_task(stream(server, "resp_lost"))
    assert (await show(server, "resp_lost"))["status"] == "in_progress"

    def forget(db: Any) -> None:
        words = "UPDATE entries SET alive_at = alive_at - ? WHERE id = 'resp_lost'"
        db.execute(words, (background.LOST_AFTER_S + 1,))

    await store._file.run(forget)
    text = await reader
    assert text.count("event: response.failed") == 1
    found = await show(server, "resp_lost")
    assert found["status"] == "failed"
    assert found["error"]["code"] == "server_error"


async def test_beats_keep_a_silent_one_alive(
    start: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "BEAT_S", 0.01)
    server = await start(silent)
    made = await begin(server)
    store = server.app.ctx.responses
    first: float = (await store.load("", made["id"])).alive_at

    async def is_later() -> bool:
        now: float = (await store.load("", made["id"])).alive_at
        return now > first

    await until_true(is_later)
    await server.http.delete(f"/v1/responses/{made['id']}")


async def test_another_process_follows_and_cancels(
    start: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "POLL_S", 0.01)
    settings = {"responses": ResponsesConfig(path=str(tmp_path / "r.sqlite"))}
    one, two = await start(endless(), **settings), await start(**settings)
    made = await begin(one)
    reader = asyncio.create_task(stream(two, made["id"]))
    await until(lambda: one.engine.num_open == 1)

    async def has_begun() -> bool:
        return bool((await show(two, made["id"]))["status"] == "in_progress")

    await until_true(has_begun)
    reply = await two.http.post(f"/v1/responses/{made['id']}/cancel")
    assert reply.json()["status"] == "cancelled"
    await until(lambda: one.engine.num_open == 0)
    assert (await reader).count("event: response.incomplete") == 1
    assert (await show(one, made["id"]))["status"] == "cancelled"


async def test_stored_response_is_its_own(start: StartServer) -> None:
    """Two at once do not mix."""
    server = await start(speak("Hello", " world"))
    made = await asyncio.gather(*(begin(server, input=f"{i}") for i in range(8)))
    bodies = [await ended(server, each["id"]) for each in made]
    assert {body["status"] for body in bodies} == {"completed"}
    inputs = [await server.app.ctx.responses.load("", each["id"]) for each in made]
    texts = [replace(each).input[0]["content"][0]["text"] for each in inputs]
    assert texts == [str(i) for i in range(8)]
