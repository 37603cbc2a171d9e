"""Engines of a set that die and come back at random: each request ends once, nothing is left."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from llmplug.engine.pending_requests import NothingSent
from llmplug.errors import EngineError, EngineUnavailable
from llmplug.server.replicas.replica_set import ReplicaSet
from llmplug.types import (
    EngineReady,
    FinishReason,
    GenerateRequest,
    SamplingParams,
    SequenceDelta,
)

DEADLINE_S = 30.0
NUM_TOKENS = 5


class MortalClient:
    """As an engine's client, without a process: it dies and comes back when it is told to."""

    def __init__(self, draw: random.Random) -> None:
        self.on_event: Any = None
        self.state = "ready"
        self.stalled_s = 0.0
        self.loading = self.failure = None
        self.ready = EngineReady(
            vocab_size=9, context_length=99, num_pages=20, page_size=4, report={}
        )
        self._draw = draw
        self._life = 0

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[SequenceDelta, None]:
        if self.state != "ready":
            raise EngineUnavailable("The engine is dead.")
        life = self._life
        for count in range(1, NUM_TOKENS + 1):
            for _ in range(self._draw.randrange(4)):
                await asyncio.sleep(0)
                if life != self._life:
                    raise NothingSent("died") if count == 1 else EngineUnavailable("died")
            is_last = count == NUM_TOKENS
            yield SequenceDelta(
                request_id=request.request_id,
                token_ids=[count],
                finish_reason=FinishReason.LENGTH if is_last else None,
            )

    def die(self) -> None:
        self.state = "dead"
        self._life += 1
        self.on_event("death", "it was told to")

    def revive(self) -> None:
        self.state = "ready"
        self.on_event("ready", "")


async def ask(engines: ReplicaSet, number: int) -> tuple[list[int], Exception | None]:
    """Return the tokens that came, and what came instead of the rest."""
    request = GenerateRequest(
        request_id=str(number), prompt_ids=[number % 3] * 12, sampling=SamplingParams()
    )
    tokens: list[int] = []
    try:
        async for delta in engines.generate(request):
            tokens += delta.token_ids
    except EngineError as error:
        return tokens, error
    return tokens, None


@pytest.mark.parametrize("seed", range(20))
async def test_each_request_ends_once_whoever_dies(seed: int) -> None:
    draw = random.Random(seed)
    clients = [MortalClient(draw) for _ in range(3)]
    engines: Any = ReplicaSet("toy", clients)  # type: ignore[arg-type]
    asked = []
    for number in range(60):
        if any(client.state == "ready" for client in clients):
            asked.append(asyncio.create_task(ask(engines, number)))
        for _ in range(draw.randrange(4)):
            await asyncio.sleep(0)
        victim = draw.choice(clients)
        if draw.random() < 0.3:
            victim.die() if victim.state == "ready" else victim.revive()
    for client in clients:  # what waits for one of them finds it
        if client.state == "dead":
            client.revive()
    outcomes = await asyncio.wait_for(asyncio.gather(*asked), DEADLINE_S)
    whole = list(range(1, NUM_TOKENS + 1))
    for tokens, error in outcomes:
        if error is None:
            assert tokens == whole  # of one engine, from its first on
        elif isinstance(error, EngineUnavailable):
            assert tokens == whole[: len(tokens)]
            assert len(tokens) < NUM_TOKENS
        else:
            assert str(error) == "the engine died twice while this request ran"
            assert tokens == []
    assert [each.num_tokens for each in engines.replicas] == [0, 0, 0]
    assert engines._asked == {}
    num_moved = sum(each.num_routed["moved"] for each in engines.replicas)
    assert num_moved > 0
    assert sum(error is None for _, error in outcomes) > len(outcomes) / 3


async def test_one_that_is_closed_early_leaves_no_load() -> None:
    clients = [MortalClient(random.Random(0)) for _ in range(2)]
    engines: Any = ReplicaSet("toy", clients)  # type: ignore[arg-type]
    request = GenerateRequest(request_id="a", prompt_ids=[1] * 12, sampling=SamplingParams())
    stream = engines.generate(request)
    await anext(stream)
    assert sorted(each.num_tokens for each in engines.replicas) == [0, 13]
    await stream.aclose()
    assert [each.num_tokens for each in engines.replicas] == [0, 0]
