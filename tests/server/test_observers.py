"""Who looks on is told once of each beginning and each end, and harms nobody by failing."""

from __future__ import annotations

import asyncio

import pytest

from llmplug.errors import EngineError
from llmplug.server.observers import Observers
from llmplug.server.trail import Trail

from .conftest import StartServer, until
from .fake_engine import endless


class Diary:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def begin(self, trail: Trail) -> None:
        self.told.append(("begin", trail.outcome))

    def end(self, trail: Trail) -> None:
        self.told.append(("end", trail.outcome))

    def note_engine(self, model: str, event: str, why: str) -> None:
        self.told.append((model, event))


class Broken(Diary):
    """Fails whatever it is told."""

    def begin(self, trail: Trail) -> None:
        raise ValueError("begin")

    def end(self, trail: Trail) -> None:
        raise ValueError("end")

    def note_engine(self, model: str, event: str, why: str) -> None:
        raise ValueError("engine")


@pytest.mark.parametrize(
    ("error", "outcome", "code"),
    [
        (None, "done", ""),
        (EngineError("x"), "error", "engine_error"),
        (KeyError("x"), "error", "internal_error"),
        (asyncio.CancelledError(), "abort", ""),
        (GeneratorExit(), "abort", ""),
    ],
)
def test_an_end_is_told_whatever_it_is(
    error: BaseException | None, outcome: str, code: str
) -> None:
    diary, trail = Diary(), Trail()
    caught: BaseException | None = None
    try:
        with Observers(Broken(), diary).watch(trail):
            if error is not None:
                raise error
    except BaseException as raised:  # noqa: BLE001 - it is the one that was raised
        caught = raised
    assert caught is error
    assert diary.told == [("begin", "running"), ("end", outcome)]
    assert trail.error_code == code
    assert trail.abort_reason == ("client" if outcome == "abort" else None)


async def test_one_that_fails_harms_no_request(
    start: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    server = await start()
    diary = Diary()
    server.service.observers.add(Broken())
    server.service.observers.add(diary)
    assert (await server.complete()).status_code == 200
    server.engine.script = endless()
    gone = asyncio.create_task(server.complete(stream=True))
    await until(lambda: server.engine.num_open == 1)
    gone.cancel()
    await until(lambda: server.num_in_flight == 0)
    server.engine.on_event("death", "")
    assert diary.told == [
        *(("begin", "running"), ("end", "done")),
        *(("begin", "running"), ("end", "abort")),
        ("toy", "death"),
    ]
    assert caplog.text.count("Broken failed; the request goes on") == 5
