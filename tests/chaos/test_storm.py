"""Clients of a real server whose processes are killed: requests end well, and nothing is left.

`make soak` is the same for longer, with more clients.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from benchmarks.server import ServerProcess
from benchmarks.soak.clients import Kind, Outcome
from benchmarks.soak.kills import Killer, find_engine
from benchmarks.soak.replies import BrokenReplyError, Reply, read_stream, read_whole
from benchmarks.soak.run import Plan, compare_vitals, find_leftovers, judge, soak
from benchmarks.soak.vitals import Vitals, find_growth, read_gauges, read_vitals

from .tiny_server import open_tiny

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc"),
]

DEADLINE_S = 120.0
STORM = Plan(num_clients=30, storm_s=25.0, calm_s=0.0, engine_every_s=3.0, http_every_s=9.0)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with open_tiny(tmp_path_factory.mktemp("storm")) as server:
        yield server


async def test_every_request_in_a_storm_ends_as_it_should(server: ServerProcess) -> None:
    report = await soak(server.pid, server.url, "tiny", STORM)
    assert report.problems == []
    assert report.num_engine_kills >= 1
    assert report.outcomes[Kind.ANSWERED] > report.plan.num_clients


async def test_an_engine_that_is_killed_leaves_nothing_in_the_gauges(server: ServerProcess) -> None:
    """Nobody asks afterwards, so that no step of the next engine writes over what stands there."""
    body = {"model": "tiny", "prompt": "Once", "max_tokens": 900, "ignore_eos": True}
    async with httpx.AsyncClient(base_url=server.url, timeout=DEADLINE_S) as http:
        async with http.stream("POST", "/v1/completions", json={**body, "stream": True}) as stream:
            async for line in stream.aiter_lines():
                if line and (await read_gauges(http))["llmplug_cache_pages_used"] > 0:
                    break
            killer = Killer(server.pid, http)
            async with asyncio.timeout(DEADLINE_S):
                await killer.kill(find_engine, killer.engine_kills)
        assert len(killer.engine_kills) == 1
        assert await find_leftovers(http) == []


# --- what the harness itself calls a problem ----------------------------------------------------
def make_killer(*, engine: float | None = None, http: float | None = None) -> Killer:
    killer = Killer(0, httpx.AsyncClient())
    killer.engine_kills += [] if engine is None else [engine]
    killer.http_kills += [] if http is None else [http]
    killer.downtimes += [(kill, kill + 5.0) for kill in (engine, http) if kill is not None]
    return killer


@pytest.mark.parametrize(
    ("kind", "engine", "http", "is_problem"),
    [
        (Kind.ANSWERED, None, None, False),
        (Kind.WRONG, 11.0, 11.0, True),
        (Kind.LOST, None, 11.0, False),
        (Kind.LOST, 11.0, None, True),  # an engine's death is no reason to break a connection
        (Kind.LOST, None, 13.0, True),
        (Kind.FAILED, 11.0, None, False),
        (Kind.FAILED, None, None, True),
        (Kind.REFUSED, 9.0, None, False),
        (Kind.REFUSED, 1.0, None, True),  # it was long back
    ],
)
def test_only_kills_excuse(
    kind: Kind, engine: float | None, http: float | None, is_problem: bool
) -> None:
    outcome = Outcome(kind, started=10.0, ended=12.0, words="why")
    found = judge([outcome], make_killer(engine=engine, http=http))
    assert found == ([f"{kind}: why"] if is_problem else [])


def test_two_deaths_excuse_a_500_and_one_does_not() -> None:
    outcome = Outcome(Kind.FAILED, started=10.0, ended=20.0, words="500 engine_error")
    killer = make_killer(engine=11.0)
    assert len(judge([outcome], killer)) == 1
    killer.engine_kills.append(18.0)
    assert judge([outcome], killer) == []


CHUNK = 'data: {"choices": [{"index": 0, "text": "a", "finish_reason": null}]}\n\n'
END = 'data: {"choices": [{"index": 0, "text": "b", "finish_reason": "stop"}]}\n\n'
ERROR = 'data: {"error": {"code": "engine_unavailable"}}\n\n'
DONE = "data: [DONE]\n\n"


def test_a_stream_has_exactly_one_end() -> None:
    path = "/v1/completions"
    assert read_stream(path, CHUNK + END + DONE) == Reply("ab")
    assert read_stream(path, CHUNK + ERROR + DONE) == Reply("a", "engine_unavailable")
    for broken in (CHUNK + END, CHUNK + DONE, END + ERROR + DONE, END + DONE + DONE, DONE + END):
        with pytest.raises(BrokenReplyError):
            read_stream(path, broken)


def test_events_of_other_protocols_have_exactly_one_end() -> None:
    stop, error = '{"type": "message_stop"}', '{"type": "error", "error": {"type": "api_error"}}'
    assert read_stream("/v1/messages", f"data: {stop}\n").error == ""
    assert read_stream("/v1/messages", f"data: {error}\n").error == "api_error"
    with pytest.raises(BrokenReplyError):
        read_stream("/v1/messages", f"data: {error}\ndata: {stop}\n")
    done = '{"type": "response.completed"}'
    failed = '{"type": "response.failed", "response": {"error": {"code": "server_error"}}}'
    assert read_stream("/v1/responses", f"data: {done}\n").error == ""
    assert read_stream("/v1/responses", f"data: {failed}\n").error == "server_error"
    with pytest.raises(BrokenReplyError):
        read_stream("/v1/responses", f"data: {done}\ndata: {failed}\n")


def test_a_whole_reply_says_how_it_ended() -> None:
    choice = {"text": "a", "finish_reason": "length"}
    assert read_whole("/v1/completions", {"choices": [choice]}) == Reply("a")
    for body in ({"choices": [{**choice, "finish_reason": None}]}, {"choices": []}, {}):
        with pytest.raises(BrokenReplyError):
            read_whole("/v1/completions", body)


def test_what_did_not_come_back_is_told() -> None:
    before = Vitals(0.0, {"http": 80 * 2**20}, {"http": 20}, {"http": 5})
    assert compare_vitals(before, replace(before, num_files={"http": 24})) == []
    leaked = replace(before, num_sockets={"http": 50}, rss_bytes={"http": 180 * 2**20})
    assert compare_vitals(before, leaked) == [
        "100 MiB more memory than before",
        "http: 50 open sockets, 5 before",
    ]


def test_the_open_files_of_this_process_are_told_apart(tmp_path: Path) -> None:
    before = read_vitals(os.getpid())
    with (tmp_path / "x").open("w"), socket.socket(), socket.socket():
        after = read_vitals(os.getpid())
    assert after.num_files["supervisor"] - before.num_files["supervisor"] == 1
    assert after.num_sockets["supervisor"] - before.num_sockets["supervisor"] == 2


def test_growth_is_told_and_flatness_is_not() -> None:
    mib = 2**20
    flat = [Vitals(float(t), {"http": 80 * mib + t % 3}, {"http": 20}) for t in range(600)]
    assert find_growth(flat) == []
    grown = [Vitals(float(t), {"http": 80 * mib + t * mib // 60}, {"http": 20}) for t in range(600)]
    assert find_growth(grown) == ["http grew by 10.0 MiB in 10.0 minutes"]
    opened = [Vitals(float(t), {"http": 80 * mib}, {"http": 20 + t // 60}) for t in range(600)]
    assert find_growth(opened) == ["http opened 10 files more"]
