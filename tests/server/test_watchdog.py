"""What stands still is told, whoever stands still."""

from __future__ import annotations

import asyncio
import logging
import threading
import time

import pytest

from llmplug.server.watchdog import Watchdog

from .conftest import StartServer, until


async def test_a_task_that_ends_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise ValueError("on purpose")

    async def go_on() -> None:
        await asyncio.Event().wait()

    watchdog = Watchdog(period_s=0.02).start()
    watchdog.wake()
    watchdog.run("lasting", go_on())
    assert watchdog.find_problems() == []
    watchdog.run("failing", fail())
    await until(lambda: bool(watchdog.find_problems()))
    assert watchdog.find_problems() == ["the task 'failing' ended: ValueError('on purpose')"]
    await watchdog.stop()
    assert "on purpose" in caplog.text


async def test_a_hanging_loop_is_told_with_its_stack(caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []
    seen: list[str] = []
    watchdog = Watchdog(on_stall=lambda: told.append("told"), loop_stall_s=0.2, period_s=0.02)
    watchdog.start()
    watchdog.wake()

    def look() -> None:
        deadline = time.monotonic() + 10
        while not seen and time.monotonic() < deadline:
            seen.extend(watchdog.find_problems())

    looker = threading.Thread(target=look)
    looker.start()
    with caplog.at_level(logging.ERROR):
        hang_the_loop(seen)
        looker.join()
        await until(lambda: watchdog.find_problems() == [])
    assert seen[0].startswith("the event loop has stood still for ")
    assert "hang_the_loop" in caplog.text  # its stack
    assert len(caplog.records) == 1  # a stall is told once
    assert told == ["told"]
    await watchdog.stop()


def hang_the_loop(seen: list[str]) -> None:
    deadline = time.monotonic() + 10
    while not seen and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)  # for the watchdog's own look


async def test_readiness_goes_red_with_a_dead_task(start: StartServer) -> None:
    server = await start()
    server.app.ctx.watchdog.start()

    async def fail() -> None:
        raise ValueError("on purpose")

    assert (await server.http.get("/ready")).status_code == 200
    server.app.ctx.watchdog.run("keeper", fail())
    await asyncio.sleep(0)
    response = await server.http.get("/ready")
    assert response.status_code == 503
    assert response.json()["problems"] == ["the task 'keeper' ended: ValueError('on purpose')"]
    assert (await server.http.get("/live")).status_code == 200
    await server.app.ctx.watchdog.stop()
