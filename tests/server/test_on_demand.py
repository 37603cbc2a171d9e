"""An engine that starts with a request and ends with silence, over scripted engines."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from operator import attrgetter
from typing import Any

import pytest

from llmplug.errors import CheckpointError, ConfigError, EngineUnavailable
from llmplug.server.on_demand import RETRY_S, EngineOnDemand
from llmplug.types import GenerateRequest, PoolRequest, SamplingParams, SequenceDelta

from .conftest import Running, StartServer, until
from .fake_engine import TOKENIZER, FakeEngine, Script, endless, ids_of, speak

ABC: list[Any] = [*ids_of("abc"), TOKENIZER.eos_token_id]


class StrictEngine(FakeEngine):
    """Refuses requests before it is ready and after it is stopped, as a real one does."""

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[SequenceDelta, None]:
        if self.state != "ready":
            raise EngineUnavailable(f"The engine is {self.state}.")
        async with aclosing(super().generate(request)) as deltas:
            async for delta in deltas:
                assert not self.is_stopped
                yield delta


class Engines:
    """Makes engines, and remembers them."""

    def __init__(self, script: Script | None = None) -> None:
        self.script = script
        self.made: list[FakeEngine] = []
        self.failures: list[Exception | None] = []  # of the next ones
        self.may_be_ready = True

    def connect(self) -> FakeEngine:
        engine = StrictEngine(self.script)
        engine.failure = self.failures.pop(0) if self.failures else None  # type: ignore[assignment]
        if not self.may_be_ready:
            engine.may_be_ready.clear()
        self.made.append(engine)
        return engine

    @property
    def num_running(self) -> int:
        return sum(not engine.is_stopped for engine in self.made)


@pytest.fixture
async def engines() -> AsyncIterator[Engines]:
    """After the test, none may run."""
    engines = Engines()
    yield engines
    assert engines.num_running == 0


def ask(engine: EngineOnDemand, request_id: str = "a") -> asyncio.Task[list[int]]:
    async def run() -> list[int]:
        request = GenerateRequest(
            request_id=request_id, prompt_ids=[1], sampling=SamplingParams(max_tokens=9)
        )
        return [i async for delta in engine.generate(request) for i in delta.token_ids]

    return asyncio.create_task(run())


async def test_nothing_runs_before_a_request(engines: Engines) -> None:
    engine = EngineOnDemand("toy", engines.connect)
    await engine.start()
    ready = asyncio.create_task(engine.wait_ready())
    assert (engine.state, engines.made) == ("asleep", [])
    assert await ask(engine)
    assert (engine.state, len(engines.made)) == ("ready", 1)
    assert (await ready).context_length
    await engine.stop()
    assert engine.state == "dead"


async def test_requests_share_one_start_and_wait_for_it(engines: Engines) -> None:
    engines.may_be_ready = False
    engine = EngineOnDemand("toy", engines.connect)
    asked = [ask(engine, str(i)) for i in range(3)]
    await until(lambda: engine.loading is not None)
    assert engine.state == "waking"
    assert not any(task.done() for task in asked)
    engines.made[0].may_be_ready.set()
    assert all(await asyncio.gather(*asked))
    assert len(engines.made) == 1
    await engine.stop()


async def test_a_start_goes_on_when_who_asked_goes_away(engines: Engines) -> None:
    engines.may_be_ready = False
    engine = EngineOnDemand("toy", engines.connect, keep_alive_s=0.01)
    asked = ask(engine)
    await until(lambda: engine.loading is not None)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    assert engine.state == "waking"
    engines.made[0].may_be_ready.set()
    await until(lambda: engines.made[0].is_stopped)  # and nobody came
    assert engine.state == "asleep"
    await engine.stop()


async def test_silence_stops_it_and_a_request_starts_another(engines: Engines) -> None:
    engine = EngineOnDemand("toy", engines.connect, keep_alive_s=0.01)
    for number in (1, 2):
        assert await ask(engine)
        assert len(engines.made) == number
        await until(lambda: engine.state == "asleep" and engines.num_running == 0)
        assert engine.stats is None
    await engine.stop()


async def test_what_serves_it_ends_with_it(engines: Engines) -> None:
    """Told once its engine is stopped, each time, and not for a stop of the server."""
    running: list[int] = []

    async def note() -> None:
        running.append(engines.num_running)

    engine = EngineOnDemand("toy", engines.connect, keep_alive_s=0.01, on_asleep=note)
    for number in (1, 2):
        assert await ask(engine)
        await until(lambda number=number: len(running) == number)  # type: ignore[misc]
    await engine.stop()
    assert running == [0, 0]


async def test_what_runs_keeps_it_awake(engines: Engines) -> None:
    engines.script = endless()
    engine = EngineOnDemand("toy", engines.connect, keep_alive_s=0.01)
    long = ask(engine, "long")
    await until(lambda: engine.state == "ready")
    short = ask(engine, "short")
    await until(lambda: engines.made[0].num_open == 2)
    short.cancel()
    with pytest.raises(TimeoutError):  # longer than it would be kept alive
        await asyncio.wait_for(asyncio.shield(long), 0.1)
    assert engine.state == "ready"
    long.cancel()
    await until(lambda: engine.state == "asleep")
    await engine.stop()


async def test_vectors_wake_it_too(engines: Engines) -> None:
    engine = EngineOnDemand("toy", engines.connect, keep_alive_s=0.01)
    request = PoolRequest(request_id="a", prompts=[[1, 2], [3]], task="embed")
    assert await engine.pool(request) == await FakeEngine().pool(request)
    assert engines.made[0].pooled == [request]
    await until(lambda: engine.state == "asleep")
    await engine.stop()


async def test_a_stop_ends_before_the_next_start(engines: Engines) -> None:
    engine = EngineOnDemand("toy", engines.connect, keep_alive_s=0.01)
    assert await ask(engine)
    may_stop = asyncio.Event()
    first = engines.made[0]
    stop = first.stop

    async def stop_slowly() -> None:
        await may_stop.wait()
        await stop()

    first.stop = stop_slowly  # type: ignore[method-assign]
    await until(lambda: engine.state == "asleep")
    asked = ask(engine)
    await until(lambda: len(engines.made) == 2)
    assert engine.state == "waking"
    assert engines.made[1].loading is None  # not started
    may_stop.set()
    assert await asked
    assert first.is_stopped
    await engine.stop()


async def test_however_requests_come_each_is_answered_and_one_engine_runs_at_a_time(
    engines: Engines,
) -> None:
    engines.script = speak("abc")
    most = 0

    def connect() -> FakeEngine:
        nonlocal most
        made = engines.connect()
        begin = made.start

        async def start() -> None:
            nonlocal most
            await begin()
            running = [each for each in engines.made if each.loading and not each.is_stopped]
            most = max(most, len(running))

        made.start = start  # type: ignore[method-assign]
        return made

    engine = EngineOnDemand("toy", connect, keep_alive_s=0.001)
    draw = random.Random(5)

    async def ask_later(number: int) -> list[int]:
        await asyncio.sleep(draw.random() * 0.5)
        asked = ask(engine, str(number))
        if number % 5 == 0:  # some go away
            await asyncio.sleep(draw.random() * 0.002)
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
            return ABC
        return await asked

    answers = await asyncio.gather(*(ask_later(i) for i in range(300)))
    assert answers == [ABC] * 300
    assert (most, engine._num_open) == (1, 0)
    assert len(engines.made) > 3  # it did fall asleep in between
    await engine.stop()


async def test_a_failed_start_is_told_and_tried_again_later(engines: Engines) -> None:
    engines.failures = [CheckpointError("no such tensor")]
    now = 0.0
    engine = EngineOnDemand("toy", engines.connect, clock=lambda: now)
    for now in (0.0, RETRY_S - 1):  # noqa: B007 - the clock reads it
        with pytest.raises(EngineUnavailable, match="log says why"):
            await ask(engine)
        assert (engine.state, len(engines.made)) == ("failed", 1)  # not tried again at once
    now = RETRY_S
    assert await ask(engine)
    assert (engine.state, len(engines.made)) == ("ready", 2)
    await engine.stop()


async def test_an_eager_one_runs_before_a_request_and_tells_its_failure(engines: Engines) -> None:
    engine = EngineOnDemand("toy", engines.connect, first=engines.connect(), keep_alive_s=0.01)
    await engine.start()
    assert engine.state == "loading"
    await engine.wait_ready()
    await until(lambda: engine.state == "asleep")
    await engine.stop()

    engines.failures = [ConfigError("wrong")]
    engine = EngineOnDemand("toy", engines.connect, first=engines.connect(), keep_alive_s=0.01)
    await engine.start()
    with pytest.raises(ConfigError, match="wrong"):
        await engine.wait_ready()
    await engine.stop()


@pytest.mark.parametrize("is_retiring", [False, True])
async def test_a_stop_ends_a_start_and_who_waits_for_it(
    engines: Engines, *, is_retiring: bool
) -> None:
    engine = EngineOnDemand("toy", engines.connect, keep_alive_s=0.01)
    if is_retiring:
        assert await ask(engine)
        await until(lambda: engine.state == "asleep")
    engines.may_be_ready = False
    asked = ask(engine)
    await until(lambda: engine.state == "waking")
    stopping = asyncio.create_task(engine.stop())
    await until(lambda: engines.made[-1].is_stopped)
    engines.made[-1].failure = EngineUnavailable("stopped")  # as a real one says then
    engines.made[-1].may_be_ready.set()
    await stopping
    with pytest.raises(EngineUnavailable):
        await asked
    with pytest.raises(EngineUnavailable):
        await ask(engine, "late")
    assert engine.state == "dead"


# --- in a server ---------------------------------------------------------------------------------
class CountedOnDemand(EngineOnDemand):
    """Tells the fixture what is left open, as a scripted engine does."""

    num_open = property(attrgetter("_num_open"))


async def start_lazy(start: StartServer, engines: Engines, **options: Any) -> Running:
    """A server of one model on demand; it is green before there is an engine."""
    return await start(engine=CountedOnDemand("toy", engines.connect, **options))


async def test_a_server_tells_what_sleeps_and_wakes_it(
    start: StartServer, engines: Engines
) -> None:
    engines.script = speak("Hello")
    server = await start_lazy(start, engines, keep_alive_s=0.01)

    async def read_state() -> str:
        ready = await server.http.get("/ready")
        assert ready.status_code == 200
        (card,) = (await server.http.get("/v1/models")).json()["data"]
        (model,) = ready.json()["models"]
        assert card["state"] == model["state"]
        return str(card["state"])

    assert await read_state() == "asleep"
    assert await server.metric("llmplug_ready{") == 'llmplug_ready{model="toy"} 0.0'
    engines.may_be_ready = False
    answer = asyncio.create_task(server.chat())
    await until(lambda: bool(engines.made) and engines.made[0].loading is not None)
    assert await read_state() == "waking"
    engines.made[0].may_be_ready.set()
    assert (await answer).json()["choices"][0]["message"]["content"] == "Hello"
    await until(lambda: engines.num_running == 0)
    assert await read_state() == "asleep"


async def test_a_model_that_cannot_start_is_a_503(start: StartServer, engines: Engines) -> None:
    engines.failures = [CheckpointError("/secret/path is broken")]
    server = await start_lazy(start, engines)
    answer = await server.chat()
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "engine_unavailable"
    assert "secret" not in answer.text
    assert "Retry-After" in answer.headers
    assert (await server.http.get("/ready")).status_code == 503  # it has no other model
