"""Vectors from an engine in a process of its own: deaths, cancellations, refusals."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from engine.fake_model import make_request
from engine.fake_reader import expected_mean
from engine.test_client import is_alive, until

from llmplug import ContextLengthExceeded, EngineError, EngineUnavailable, UnsupportedParameter
from llmplug.engine import client as client_module
from llmplug.engine.client import EngineClient
from llmplug.types import PoolRequest

ARGV = [sys.executable, "-W", "error", str(Path(__file__).parent / "fake_pooling_worker.py")]


@asynccontextmanager
async def running(**options):
    client = EngineClient(ARGV, json.dumps(options).encode())
    await client.start()
    try:
        await client.wait_ready()
        yield client
    finally:
        await client.stop()


def ask(request_id: str, *prompts: list[int]) -> PoolRequest:
    return PoolRequest(request_id=request_id, prompts=list(prompts))


async def embed(client: EngineClient, request: PoolRequest) -> list[list[float]]:
    result = await client.pool(request)
    return np.frombuffer(result.values, "<f4").reshape(len(request.prompts), -1).tolist()


async def test_requests_side_by_side_get_their_own_vectors() -> None:
    async with running() as client:
        ready = await client.wait_ready()
        assert (ready.task, ready.width, ready.context_length) == ("embed", 4, 32)
        asked = [[[i, j + 1] for j in range(i % 5 + 1)] for i in range(20)]
        found = await asyncio.gather(
            *(embed(client, ask(str(i), *prompts)) for i, prompts in enumerate(asked))
        )
        for vectors, prompts in zip(found, asked, strict=True):
            assert vectors == [expected_mean(prompt) for prompt in prompts]
        assert client.stats.num_waiting == 0
        assert client.stalled_s == 0


async def test_what_is_refused_is_not_sent() -> None:
    async with running() as client:
        with pytest.raises(ContextLengthExceeded):
            await client.pool(ask("long", [1] * 33))
        with pytest.raises(UnsupportedParameter, match="generates no text"):
            await anext(client.generate(make_request("words", [1, 2])))
        assert await embed(client, ask("long", [1])) == [expected_mean([1])]


async def test_a_killed_engine_is_started_again_and_asked_again(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(client_module, "FIRST_BACKOFF_S", 0.01)
    async with running(die_once=str(tmp_path / "died"), step_s=0.01) as client:
        first = client.pid
        requests = [ask("kills", [1], [2], [90]), ask("beside", [3])]
        found = await asyncio.gather(*(embed(client, each) for each in requests))
        assert found == [[expected_mean(prompt) for prompt in each.prompts] for each in requests]
        assert client.pid != first
        assert not is_alive(first)


async def test_what_kills_twice_is_not_asked_a_third_time(monkeypatch) -> None:
    monkeypatch.setattr(client_module, "FIRST_BACKOFF_S", 0.01)
    async with running() as client:
        with pytest.raises(EngineError, match="died twice"):
            await client.pool(ask("kills", [90]))
        await client.wait_ready()
        assert await embed(client, ask("next", [4])) == [expected_mean([4])]


async def test_a_cancelled_call_ends_its_request() -> None:
    async with running(step_s=0.02) as client:
        request = ask("many", *([5] for _ in range(2048)))
        many = asyncio.create_task(client.pool(request))
        await until(lambda: client.stats is not None and client.stats.num_waiting > 0)
        many.cancel()
        with pytest.raises(asyncio.CancelledError):
            await many
        assert await embed(client, ask("many", [7])) == [expected_mean([7])]  # the id is free
        assert client.stats.num_waiting == 0
        assert client.stats.num_steps < 2048 / 4


async def test_nobody_waits_for_an_engine_that_is_stopped() -> None:
    async with running() as client:
        waiting = asyncio.create_task(client.pool(ask("hangs", [91])))
        await until(lambda: client.stalled_s > 0)
        os.kill(client.pid, signal.SIGSTOP)
        await client.stop()
        with pytest.raises(EngineUnavailable):
            await waiting
