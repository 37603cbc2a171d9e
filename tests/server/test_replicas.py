"""Replicas as `llmplug serve` runs them: where prompts go, and what a death costs."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tiny import make_checkpoint

from llmplug import assemble
from llmplug.cli.serve import ENGINE_ARGV
from llmplug.config import parse
from llmplug.engine.client import EngineClient
from llmplug.processes import connect_engine
from llmplug.server.replicas.replica_set import ReplicaSet
from llmplug.server.replicas.routing import Candidate, Route, choose_route
from llmplug.types import EngineStats, GenerateRequest, SamplingParams
from tests.served import DEADLINE_S, Process, serving

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc"),
]

SETTINGS = "device: cpu, cache: {memory: 32MiB}, threads: 2, replicas: 2"
CONFIG = """
server: {{port: 0, responses: {{path: memory}}, batches: {{path: none}}}}
models:
- {{name: tiny, source: {source}, {settings}}}
- {{name: lazy, source: {source}, start: lazy, keep_alive_s: 0.5, {settings}}}
"""
NUM_CONVERSATIONS = 200
NUM_GROUPS = 40  # conversations of one have the same system prompt
NUM_TURNS = 4
PART_TOKENS = 32  # of a system prompt, and of what is asked in a turn
ANSWER_TOKENS = 4
AT_ONCE = 8


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    return make_checkpoint("llama", folder, max_position_embeddings=1024)


@pytest.fixture(scope="module")
def server(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server of a model with two replicas, and of one with two that run when they are wanted."""
    config = CONFIG.format(source=source, settings=SETTINGS)
    with serving(config, tmp_path_factory.mktemp("replicas")) as process:
        process.until(lambda: count_ready(process) == 2)
        yield process


def read_state(server: Process, model: str) -> dict[str, Any]:
    health = httpx.get(f"{server.url}/health", timeout=DEADLINE_S).json()
    (state,) = [each for each in health["models"] if each["model"] == model]
    return dict(state)


def count_ready(server: Process, model: str = "tiny") -> int:
    return int(read_state(server, model).get("num_ready", 0))


# --- where prompts go ---------------------------------------------------------------------------
@asynccontextmanager
async def two_engines(source: Path, folder: Path) -> AsyncIterator[list[EngineClient]]:
    config_file = folder / "config.yaml"
    config_file.write_text(CONFIG.format(source=source, settings=SETTINGS))
    config = parse(config_file.read_text())
    registry = assemble.load_registry(config)

    def progress(stage: str, done: int, total: int) -> None:
        """Nobody watches."""

    plan = assemble.plan_text(config.models[0], registry, progress)
    clients = [
        connect_engine(plan, config, registry, progress, argv=ENGINE_ARGV, is_replica=True)
        for _ in range(2)
    ]
    try:
        for client in clients:
            await client.start()
        for client in clients:
            await client.wait_ready()
        yield clients
    finally:
        for client in clients:
            await client.stop()


async def converse(engines: ReplicaSet, salt: str) -> float:
    """Have all conversations, turn by turn in any order; return the share of cached tokens."""
    draw = random.Random(1)
    starts = [[draw.randrange(256) for _ in range(PART_TOKENS)] for _ in range(NUM_GROUPS)]
    prompts = [list(starts[i % NUM_GROUPS]) for i in range(NUM_CONVERSATIONS)]
    before = engines.stats or EngineStats()
    places = asyncio.Semaphore(AT_ONCE)

    async def take_turn(number: int, turn: int) -> None:
        prompt = prompts[number]
        prompt += [draw.randrange(256) for _ in range(PART_TOKENS)]
        request = GenerateRequest(
            request_id=f"{salt}-{number}-{turn}",
            prompt_ids=list(prompt),
            sampling=SamplingParams(max_tokens=ANSWER_TOKENS, temperature=0, ignore_eos=True),
            cache_salt=salt,
        )
        async with places:
            async for delta in engines.generate(request):
                prompt += delta.token_ids

    for turn in range(NUM_TURNS):
        order = draw.sample(range(NUM_CONVERSATIONS), NUM_CONVERSATIONS)
        await asyncio.gather(*(take_turn(number, turn) for number in order))
    after = engines.stats
    assert after is not None
    num_prompt_tokens = after.num_prompt_tokens - before.num_prompt_tokens
    return (after.num_cached_tokens - before.num_cached_tokens) / num_prompt_tokens


def choose_any(candidates: Sequence[Candidate], num_pages: int) -> Route:
    return Route(random.choice(candidates).number, "load")


async def test_two_replicas_find_almost_as_much_in_their_caches_as_one(
    source: Path, tmp_path: Path
) -> None:
    """By the engines' own counters, which `/metrics` sums; any order finds less."""
    random.seed(2)
    async with two_engines(source, tmp_path) as clients:
        one = await converse(ReplicaSet("tiny", clients[:1]), "one")
        routed = ReplicaSet("tiny", clients, choose=choose_route)
        by_prefix = await converse(routed, "prefix")
        by_chance = await converse(ReplicaSet("tiny", clients, choose=choose_any), "chance")
    print(f"cached: one {one:.3f}, two by prefix {by_prefix:.3f}, by chance {by_chance:.3f}")
    assert one > 0.5
    assert by_prefix >= 0.9 * one
    assert by_chance < 0.9 * by_prefix
    shares = [sum(each.num_routed.values()) for each in routed.replicas]
    assert min(shares) > 0.25 * sum(shares)  # and not by asking one of them alone


# --- deaths -------------------------------------------------------------------------------------
async def stream(http: httpx.AsyncClient, number: int) -> list[str]:
    """Ask for a stream; return how it ended: every ending that it has."""
    body = {
        "model": "tiny",
        "prompt": f"{number} times",
        "max_tokens": 150,
        "stream": True,
        "temperature": 0,
        "ignore_eos": True,
    }
    endings = []
    async with http.stream("POST", "/v1/completions", json=body) as reply:
        if reply.status_code != 200:
            await reply.aread()
            return [str(reply.status_code)]
        async for line in reply.aiter_lines():
            if line.startswith("data: {"):
                event = json.loads(line[6:])
                reasons = [each["finish_reason"] for each in event.get("choices", ())]
                endings += ["error"] if "error" in event else [each for each in reasons if each]
    return endings


async def test_a_killed_replica_hangs_nothing_and_comes_back(server: Process) -> None:
    server.until(lambda: count_ready(server) == 2)
    pids = sorted(server.engine_pids())
    steps = server.metric('llmplug_engine_steps_total{model="tiny"}')
    readiness: set[int] = set()
    is_over = asyncio.Event()
    async with httpx.AsyncClient(base_url=server.url, timeout=DEADLINE_S) as http:

        async def watch() -> None:
            while not is_over.is_set():
                readiness.add((await http.get("/ready")).status_code)

        watching = asyncio.create_task(watch())
        streams = [asyncio.create_task(stream(http, number)) for number in range(32)]
        await asyncio.wait(streams, return_when=asyncio.FIRST_COMPLETED)  # all are at work
        os.kill(pids[0], signal.SIGKILL)
        streams += [asyncio.create_task(stream(http, number)) for number in range(32, 48)]
        endings = await asyncio.wait_for(asyncio.gather(*streams), DEADLINE_S)
        late = [await stream(http, number) for number in range(48, 52)]
        is_over.set()
        await watching
    assert all(len(each) == 1 for each in endings), endings
    assert {each for (each,) in endings} <= {"length", "error", "503"}
    assert sum(each == ["length"] for each in endings) >= 16
    assert late == [["length"]] * 4
    assert readiness == {200}
    server.until(lambda: count_ready(server) == 2)
    assert pids[0] not in server.engine_pids()
    assert pids[1] in server.engine_pids()
    assert server.metric('llmplug_engine_steps_total{model="tiny"}') > steps
    assert server.metric('llmplug_engine_events_total{event="death",model="tiny"}') >= 1
    for replica in range(2):
        labels = f'{{model="tiny",replica="{replica}"}}'
        assert server.metric(f"llmplug_replica_ready{labels}") == 1
        assert server.metric(f"llmplug_replica_tokens{labels}") == 0


def test_replicas_come_with_a_request_and_go_with_silence(server: Process) -> None:
    eager = set(server.engine_pids())
    body = {"model": "lazy", "prompt": "ab", "max_tokens": 5, "temperature": 0}
    for _ in range(2):
        server.until(lambda: read_state(server, "lazy")["state"] == "asleep")
        assert "replicas" not in read_state(server, "lazy")
        texts = [
            httpx.post(
                f"{server.url}/v1/completions", json={**body, "model": model}, timeout=DEADLINE_S
            ).json()["choices"][0]["text"]
            for model in ("lazy", "tiny")
        ]
        assert texts[0] == texts[1]
        server.until(lambda: set(server.engine_pids()) == eager)
