"""What the server hears of an engine that has lost a rank, whatever the engine was at."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from engine.fake_model import expected_output, make_request, output_of

from llmplug.engine import client as client_module
from llmplug.engine.client import EngineClient

ARGV = [sys.executable, "-W", "error", str(Path(__file__).with_name("fake_ranked_worker.py"))]
DEADLINE_S = 60.0


@asynccontextmanager
async def running(
    monkeypatch: pytest.MonkeyPatch, file: Path
) -> AsyncIterator[tuple[EngineClient, list[str]]]:
    """A client, and why its engine has died so far."""
    monkeypatch.setattr(client_module, "FIRST_BACKOFF_S", 0.01)
    client = EngineClient(ARGV, json.dumps({"file": str(file)}).encode())
    deaths: list[str] = []
    client.on_event = lambda event, why: deaths.append(why) if event == "death" else None
    await client.start()
    try:
        await client.wait_ready()
        yield client, deaths
        async with asyncio.timeout(DEADLINE_S):
            await client.wait_ready()
        deltas = [delta async for delta in client.generate(make_request("after", [1, 2]))]
        assert output_of(deltas) == expected_output([1, 2], 8)
    finally:
        await client.stop()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("prompt", [None, [1, 91]], ids=["idle", "in a sum"])
async def test_it_is_told_that_and_which(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, prompt: list[int] | None
) -> None:
    file = tmp_path / "rank"
    async with running(monkeypatch, file) as (client, deaths):
        stream = None
        if prompt is not None:
            request = make_request("before", prompt)
            stream = asyncio.create_task(anext(client.generate(request)))
            await until(file.with_suffix(".waits").exists)
        file.unlink()
        await until(lambda: deaths)
        assert deaths == ["the file of rank 1 is gone"]
        if stream is not None:
            stream.cancel()
            await asyncio.gather(stream, return_exceptions=True)


async def test_a_failure_of_rank_0_itself_is_told_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with running(monkeypatch, tmp_path / "rank") as (client, deaths):
        stream = client.generate(make_request("a", [1, 92]))
        with pytest.raises(Exception, match="died twice"):
            await anext(stream)
        assert deaths == ["rank 0 failed in the middle of a step"] * 2
