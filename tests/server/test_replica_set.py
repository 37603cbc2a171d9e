"""Several engine processes as one: deaths, moves, what is counted, who is told."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from engine import test_client, test_pooling_client
from engine.fake_model import expected_output, make_request, output_of
from engine.fake_reader import expected_mean
from engine.test_client import is_alive

from llmplug import EngineError, EngineUnavailable
from llmplug.engine import client as client_module
from llmplug.engine.client import EngineClient
from llmplug.server.replicas.replica_set import ReplicaSet
from llmplug.types import FinishReason

DEADLINE_S = 120.0


@asynccontextmanager
async def running(
    argv: list[str], *options: dict[str, Any]
) -> AsyncIterator[tuple[ReplicaSet, list[EngineClient]]]:
    """A set of engines over a fake model, each with options of its own; all are ready."""
    clients = [
        EngineClient(argv, json.dumps(each).encode(), keeps_unsent=False) for each in options
    ]
    engines = ReplicaSet("toy", clients)
    await engines.start()
    try:
        await engines.wait_ready()
        yield engines, clients
    finally:
        pids = [client.pid for client in clients if client.pid is not None]
        await engines.stop()
        assert not any(is_alive(pid) for pid in pids)


async def until(condition: Any) -> None:
    await test_client.until(condition, DEADLINE_S)


def kill(client: EngineClient) -> None:
    assert client.pid is not None
    os.kill(client.pid, signal.SIGKILL)


def num_routed(engines: ReplicaSet) -> list[int]:
    return [sum(each.num_routed.values()) for each in engines.replicas]


async def test_requests_are_spread_and_beginnings_stay_where_they_are() -> None:
    async with running(test_client.ARGV, {}, {}) as (engines, _):
        assert engines.state == "ready"
        for round_ in range(3):
            for first in range(4):  # four conversations, each longer in each round
                prompt = [first] * 8 * (round_ + 1)
                deltas = [d async for d in engines.generate(make_request("a", prompt))]
                assert output_of(deltas) == expected_output(prompt, 8)
                assert (deltas[0].num_cached_tokens > 0) == (round_ > 0)
            if round_ == 0:
                assert num_routed(engines) == [2, 2]
        assert num_routed(engines) == [6, 6]
        assert engines.replicas[0].num_routed == {"load": 2, "prefix": 4}
        assert [each.num_tokens for each in engines.replicas] == [0, 0]
        salted = make_request("b", [0] * 24)
        salted = type(salted)(**{**_fields(salted), "cache_salt": "other"})
        deltas = [d async for d in engines.generate(salted)]
        assert deltas[0].num_cached_tokens == 0
        assert sum(each.num_routed["prefix"] for each in engines.replicas) == 8


def _fields(request: Any) -> dict[str, Any]:
    return {name: getattr(request, name) for name in request.__struct_fields__}


async def test_what_had_sent_nothing_moves_at_once_and_counters_never_go_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(client_module, "FIRST_BACKOFF_S", 3600.0)  # nobody waits for a restart
    died = str(tmp_path / "died")
    options = {"die_once": died, "step_s": 0.01}
    async with running(test_client.ARGV, options, options) as (engines, clients):
        told: list[tuple[str, str]] = []
        engines.on_event = lambda event, why: told.append((event, why))
        streaming = [
            engines.generate(make_request(str(i), [i + 1, 2], max_tokens=400)) for i in range(2)
        ]
        for stream in streaming:
            await anext(stream)
        before = engines.stats
        assert before is not None
        assert (before.num_running, num_routed(engines)) == (2, [1, 1])
        # One that kills where it is first read; beside it, streams of both engines.
        moved = [d async for d in engines.generate(make_request("poison", [90, 1]))]
        assert output_of(moved) == expected_output([90, 1], 8)
        assert engines.state == "ready"
        states = [each.state for each in engines.replicas]
        assert sorted(states) == ["dead", "ready"]
        dead = states.index("dead")
        with pytest.raises(EngineUnavailable, match="started again"):
            async for _ in streaming[dead]:
                pass
        alive = [delta async for delta in streaming[1 - dead]]
        assert alive[-1].finish_reason is FinishReason.LENGTH
        after = engines.stats
        assert after is not None
        assert (after.num_running, after.num_waiting) == (0, 0)
        for name in after.__struct_fields__:
            if not name.startswith(("num_running", "num_waiting", "num_pages")):
                assert getattr(after, name) >= getattr(before, name)
        assert after.num_generated_tokens >= before.num_generated_tokens + 8
        assert [event for event, _ in told] == ["death"]
        assert told[0][1].startswith(f"replica {dead}: ")
        assert engines.replicas[1 - dead].num_routed["moved"] == 1
        assert [each.num_tokens for each in engines.replicas] == [0, 0]
        assert clients[dead].pid is None


async def test_what_kills_two_engines_is_not_asked_a_third_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_module, "FIRST_BACKOFF_S", 0.01)
    async with running(test_client.ARGV, {}, {}) as (engines, clients):
        pids = {client.pid for client in clients}
        with pytest.raises(EngineError, match="died twice while this request ran"):
            async for _ in engines.generate(make_request("poison", [90])):
                pass
        await until(lambda: all(client.state == "ready" for client in clients))
        assert pids.isdisjoint(client.pid for client in clients)  # it took both down, and no more
        deltas = [d async for d in engines.generate(make_request("a", [1]))]
        assert output_of(deltas) == expected_output([1], 8)


async def test_what_has_moved_waits_for_one_that_lives_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_module, "FIRST_BACKOFF_S", 0.01)
    async with running(test_client.ARGV, {}, {}) as (engines, clients):
        hanging = asyncio.create_task(anext(engines.generate(make_request("a", [91]))))
        await until(lambda: sum(num_routed(engines)) == 1)
        (holder,) = [i for i, count in enumerate(num_routed(engines)) if count]
        kill(clients[1 - holder])
        await until(lambda: clients[1 - holder].state == "dead")
        kill(clients[holder])
        await until(lambda: sum(num_routed(engines)) == 2)  # one is up again, and has it
        assert not hanging.done()
        (holder,) = [i for i, each in enumerate(engines.replicas) if each.num_tokens]
        kill(clients[holder])
        with pytest.raises(EngineError, match="died twice"):
            await hanging


async def test_nobody_is_left_waiting_when_they_are_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_module, "FIRST_BACKOFF_S", 3600.0)
    async with running(test_client.ARGV, {}, {}) as (engines, clients):
        for client in clients:
            kill(client)
        await until(lambda: all(client.state == "dead" for client in clients))
        assert engines.state == "dead"
        with pytest.raises(EngineUnavailable, match="is dead"):  # as with one engine
            await anext(engines.generate(make_request("new", [1])))
        moved = asyncio.create_task(engines._find((), has_moved=True))
        await asyncio.sleep(0)
        assert not moved.done()
    with pytest.raises(EngineUnavailable):
        await moved


async def test_an_abort_reaches_the_engine_that_has_the_request() -> None:
    async with running(test_client.ARGV, {"step_s": 0.005}, {"step_s": 0.005}) as (engines, _):
        reasons: dict[int, Any] = {}
        request = make_request("a", [1, 2], max_tokens=100, num_sequences=2)
        async for delta in engines.generate(request):
            if not reasons:
                await engines.abort("a", 0)
            reasons[delta.index] = delta.finish_reason
        assert reasons == {0: FinishReason.ABORT, 1: FinishReason.LENGTH}
        stream = engines.generate(make_request("b", [1, 2], max_tokens=400))
        await anext(stream)
        await stream.aclose()
        assert [each.num_tokens for each in engines.replicas] == [0, 0]
        await until(lambda: engines.stats is not None and engines.stats.num_running == 0)


async def test_texts_that_had_no_vector_move_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(client_module, "FIRST_BACKOFF_S", 3600.0)
    options = {"die_once": str(tmp_path / "died")}
    async with running(test_pooling_client.ARGV, options, options) as (engines, _):
        asked = [[[90, 1]], [[1, 2], [3]], [[4]]]
        found = await asyncio.gather(
            *(
                test_pooling_client.embed(engines, test_pooling_client.ask(str(i), *prompts))
                for i, prompts in enumerate(asked)
            )
        )
        for vectors, prompts in zip(found, asked, strict=True):
            assert vectors == [expected_mean(prompt) for prompt in prompts]
        assert sorted(each.state for each in engines.replicas) == ["dead", "ready"]
