"""What is told of replicas that load, live, stand still and are gone."""

from __future__ import annotations

from typing import Any

import pytest

from llmplug.engine.counted_stats import CountedStats
from llmplug.errors import CheckpointError, ConfigError, EngineUnavailable, PluginError
from llmplug.server.engine_connection import STALL_S, ReplicaState
from llmplug.server.replicas.replica_set import ReplicaSet
from llmplug.types import EngineLoading, EngineReady, EngineStats

from .conftest import StartServer
from .fake_engine import FakeEngine


def replica(number: int, **changes: Any) -> ReplicaState:
    known = {"state": "ready", "loading": None, "stalled_s": 0.0, "num_tokens": 0, "num_routed": {}}
    return ReplicaState(number=number, **{**known, **changes})


async def test_each_replica_is_told_and_one_is_enough(start: StartServer) -> None:
    engine = FakeEngine()
    loading = EngineLoading(stage="weights", done=1, total=4)
    engine.replicas = (
        replica(0, num_tokens=7, num_routed={"prefix": 2, "moved": 1}),
        replica(1, stalled_s=STALL_S + 1),
        replica(2, state="loading", loading=loading),
    )
    server = await start(engine=engine)
    health = await server.http.get("/health")
    assert health.status_code == 200
    (state,) = health.json()["models"]
    assert state == {
        "model": "toy",
        "state": "ready",
        "num_ready": 1,
        "replicas": [
            {"replica": 0, "state": "ready"},
            {"replica": 1, "state": "stalled", "stalled_s": STALL_S + 1},
            {"replica": 2, "state": "loading", "stage": "weights", "done": 1, "total": 4},
        ],
    }
    assert server.service.find_stalls() == [f"replica 1 of toy has taken no step for {61} s"]
    told = await server.metric("llmplug_replica")
    assert 'llmplug_replica_tokens{model="toy",replica="0"} 7.0' in told
    assert 'llmplug_replica_requests_total{model="toy",reason="moved",replica="0"} 1.0' in told
    assert 'llmplug_replica_ready{model="toy",replica="2"} 0.0' in told
    stalled = await server.metric("llmplug_engine_stalled_seconds")
    assert stalled == 'llmplug_engine_stalled_seconds{model="toy"} 61.0'


class ScriptedClient:
    """An engine's client as a set reads it."""

    def __init__(
        self, state: str, stalled_s: float = 0.0, failure: Exception | None = None
    ) -> None:
        self.state = state
        self.failure = failure
        self.stalled_s = stalled_s
        self.counted = CountedStats()
        self.loading = None
        self.on_event: Any = None
        self.ready = EngineReady(
            vocab_size=9, context_length=9, num_pages=9, page_size=9, report={}
        )

    async def start(self) -> None:
        """It is what it is."""

    async def stop(self) -> None:
        """It is what it is."""

    async def wait_ready(self) -> EngineReady:
        if self.failure is not None:
            self.state = "failed"
            raise self.failure
        return self.ready


@pytest.mark.parametrize(
    ("failures", "raised"),
    [
        ((None, None), None),
        ((CheckpointError("torn"), None), None),  # one is enough
        ((CheckpointError("torn"), EngineUnavailable("killed")), CheckpointError),
        ((None, ConfigError("too little memory")), ConfigError),  # the other would hide it
        ((EngineUnavailable("killed"), PluginError("absent")), PluginError),
    ],
)
async def test_a_start_says_what_became_of_it(
    failures: tuple[Exception | None, Exception | None], raised: type[Exception] | None
) -> None:
    clients: Any = [ScriptedClient("ready", failure=failure) for failure in failures]
    engines = ReplicaSet("toy", clients)
    await engines.start()
    if raised is None:
        assert (await engines.wait_ready()).page_size == 9
        assert engines.state == "ready"
    else:
        with pytest.raises(raised):
            await engines.wait_ready()
    await engines.stop()


def test_one_that_stands_still_is_asked_only_if_all_do() -> None:
    still, moving = ScriptedClient("ready", STALL_S), ScriptedClient("ready", 1.0)
    engines: Any = ReplicaSet("toy", [still, moving])  # type: ignore[list-item]
    assert [each.client for each in engines._list_ready()] == [moving]
    assert engines.stalled_s == 1.0
    moving.stalled_s = STALL_S + 1
    assert [each.client for each in engines._list_ready()] == [still, moving]
    assert engines.stalled_s == STALL_S  # red: nothing moves


def test_a_set_is_as_well_as_the_best_of_it() -> None:
    clients = [ScriptedClient("loading"), ScriptedClient("loading")]
    engines: Any = ReplicaSet("toy", clients)  # type: ignore[arg-type]
    for states, expected in (
        (("loading", "loading"), "loading"),
        (("ready", "loading"), "ready"),
        (("dead", "ready"), "ready"),
        (("dead", "loading"), "loading"),
        (("failed", "dead"), "dead"),
        (("failed", "failed"), "failed"),
    ):
        for client, state in zip(clients, states, strict=True):
            client.state = state
        for one in engines._replicas:
            one.is_gone = one.client.state == "failed"
        assert engines.state == expected
    clients[0].counted.take(EngineStats(num_steps=2, num_running=4, num_pages=9))
    clients[1].counted.take(EngineStats(num_steps=5, num_running=1, num_pages=9))
    assert engines.stats == EngineStats(num_steps=7, num_running=5, num_pages=18)
    clients[0].counted.end()
    assert engines.stats == EngineStats(num_steps=7, num_running=1, num_pages=9)
    clients[0].counted.take(EngineStats(num_steps=1, num_running=2, num_pages=9))
    assert engines.stats == EngineStats(num_steps=8, num_running=3, num_pages=18)
    assert clients[0].counted.now == EngineStats(num_steps=1, num_running=2, num_pages=9)
