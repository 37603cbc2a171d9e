"""An answer ends when its request says so, with what it has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from llmplug.types import GenerateRequest, SequenceDelta

from .conftest import StartServer, until
from .fake_engine import endless, ids_of, silent, speak
from .sse_reader import joined_text, read_events


@pytest.mark.parametrize("endpoint", ["chat", "complete"])
async def test_it_ends_with_what_there_is(start: StartServer, endpoint: str) -> None:
    server = await start(endless())
    for is_streamed in (False, True):
        response = await getattr(server, endpoint)(deadline_ms=100, stream=is_streamed)
        assert response.status_code == 200
        if is_streamed:
            events = read_events(response)
            choice, text = events[-1]["choices"][0], joined_text(events)
        else:
            (choice,) = response.json()["choices"]
            text = choice["text"] if endpoint == "complete" else choice["message"]["content"]
        assert text == "ab" * (len(text) // 2) != ""
        assert choice["finish_reason"] == "length"
        assert choice["stop_reason"] == "deadline_ms"
        await until(lambda: server.engine.num_open == 0)


async def test_what_was_held_back_is_sent(start: StartServer) -> None:
    """What may become a stop string waits; at the deadline it is text."""

    async def script(request: GenerateRequest) -> AsyncGenerator[SequenceDelta, None]:
        yield SequenceDelta(request_id=request.request_id, token_ids=ids_of("one ST"))
        await asyncio.Event().wait()

    server = await start(script)
    body = (await server.chat(deadline_ms=50, stop="STOP")).json()
    assert body["choices"][0]["message"]["content"] == "one ST"


async def test_one_that_said_nothing_is_empty_beside_one_that_did(start: StartServer) -> None:
    def script(request: GenerateRequest) -> AsyncGenerator[SequenceDelta, None]:
        return (speak("done") if request.prompt_ids == ids_of("a") else silent)(request)

    server = await start(script)
    body = (await server.complete(prompt=["a", "b"], deadline_ms=100)).json()
    assert [choice["text"] for choice in body["choices"]] == ["done", ""]
    assert [choice["finish_reason"] for choice in body["choices"]] == ["stop", "length"]
    assert ["stop_reason" in choice for choice in body["choices"]] == [False, True]


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_nothing_is_an_error(start: StartServer, is_streamed: bool) -> None:
    server = await start(silent)
    response = await server.chat(deadline_ms=20, stream=is_streamed)
    assert response.status_code == 408
    assert response.json()["error"]["code"] == "deadline_exceeded"
    assert response.headers["x-should-retry"] == "false"
    await until(lambda: server.engine.num_open == 0)


async def test_an_answer_in_time_is_not_touched(start: StartServer) -> None:
    server = await start()
    body = (await server.chat(deadline_ms=60_000)).json()
    assert body["choices"][0]["message"]["content"] == "Hello world"
    assert "stop_reason" not in body["choices"][0]
