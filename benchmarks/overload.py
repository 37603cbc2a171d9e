"""More than a server can do: `python -m benchmarks.overload`, prints a line of JSON.

First as many clients as keep the server busy ask one request after another: that is its capacity.
Then requests come at a multiple of that rate, whether others have been answered or not, as they do
from a crowd that does not know of each other. The two take turns, as a machine changes: the
capacity is that before a flood and after it. What is admitted should be as much as the capacity,
and start soon; the rest should be refused at once. What refusals take of a processor is counted
while the engine stands still, and what requests take of this program beside it: on one machine
both are taken from the engine.
Exit status 1: a request ended in any other way.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from benchmarks.crowd import Answer, Crowd
from benchmarks.machine import describe_machine
from benchmarks.processes import list_roles
from benchmarks.report import percentile
from benchmarks.server import ServerProcess, find_free_port, first_model

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

READY_TIMEOUT_S = 300.0
OUTPUT_TOKENS = 100
PROMPT = "Tell me about it. "
NUM_RUNNING = 4  # sequences at once: few, so that the model is the limit and not the HTTP process
NUM_WAITING = 8  # requests that may wait
NUM_REFUSALS = 2000  # of which the processor time is counted
ANSWERED, REFUSED = "answered", "refused"
SERVER, GENERATOR = "server", "generator"  # who takes processor time, beside the engine
TINY = """
server:
  port: {port}
  max_waiting_requests: {waiting}
  responses: {{path: memory}}
  batches: {{path: none}}
log: {{level: warning}}
models:
  - source: {source}
    name: tiny
    device: cpu
    threads: 1
    cache: {{memory: 64MiB}}
    scheduler: {{max_sequences: {running}}}
"""


@dataclass(frozen=True, slots=True)
class Call:
    """One request; times are seconds since it was sent."""

    outcome: str  # ANSWERED, REFUSED, or what went wrong
    first_s: float  # until the first byte of the answer's body, or of the refusal
    whole_s: float
    ended: float  # of the monotonic clock

    @property
    def sent(self) -> float:
        """When, of the same clock."""
        return self.ended - self.whole_s

    @property
    def started(self) -> float:
        """When the first byte came."""
        return self.sent + self.first_s


@dataclass(slots=True)
class Load:
    """Requests of one phase."""

    started: float
    seconds: float
    calls: list[Call] = field(default_factory=list)
    cpu_s: Mapping[str, float] = field(default_factory=dict)  # by who took it; of whole processes

    def of(self, outcome: str) -> list[Call]:
        """The calls that ended so."""
        return [call for call in self.calls if call.outcome == outcome]

    @property
    def rate(self) -> float:
        """Answers a second, of those that ended while the load lasted."""
        ends_at = self.started + self.seconds
        return sum(call.ended <= ends_at for call in self.of(ANSWERED)) / self.seconds


async def call(crowd: Crowd, body: bytes) -> Call:
    """Send one request and read its answer to the end."""
    started = time.monotonic()
    try:
        answer = await crowd.ask("/v1/completions", body)
    except OSError as error:
        ended = time.monotonic()
        return Call(repr(error), ended - started, ended - started, ended)
    return Call(judge(answer), answer.first_s, answer.whole_s, time.monotonic())


def judge(answer: Answer) -> str:
    """Say what came of a request."""
    if answer.status == HTTPStatus.OK:
        is_whole = answer.body.endswith(b"data: [DONE]\n\n")
        is_long = b'"finish_reason":"length"' in answer.body
        return ANSWERED if is_whole and is_long else f"broken stream: {answer.body[-200:]!r}"
    if answer.status == HTTPStatus.TOO_MANY_REQUESTS and "retry-after" in answer.headers:
        return REFUSED
    return f"{answer.status} {answer.body[:200]!r}"


async def keep_busy(crowd: Crowd, body: bytes, seconds: float) -> Load:
    """Ask with as many clients as run and wait, without a single refusal."""
    load = Load(time.monotonic(), seconds)

    async def ask() -> None:
        while time.monotonic() < load.started + seconds:
            load.calls.append(await call(crowd, body))

    async with asyncio.TaskGroup() as group:
        for _ in range(NUM_RUNNING + NUM_WAITING // 2):
            group.create_task(ask())
    return load


async def flood(crowd: Crowd, body: bytes, seconds: float, per_s: float, seed: int) -> Load:
    """Ask at a rate, at random moments, whatever becomes of the requests."""
    rng = random.Random(seed)
    load = Load(time.monotonic(), seconds)

    async def ask() -> None:
        load.calls.append(await call(crowd, body))

    next_at = load.started
    async with asyncio.TaskGroup() as group:
        while (next_at := next_at + rng.expovariate(per_s)) < load.started + seconds:
            await asyncio.sleep(next_at - time.monotonic())
            group.create_task(ask())
    return load


async def refuse(crowd: Crowd, body: bytes, engines: Sequence[int]) -> Load:
    """Ask one request after another while the engine stands still and all places are taken.

    Args:
        engines: their process ids.
    """
    for pid in engines:
        os.kill(pid, signal.SIGSTOP)
    crowding = [asyncio.create_task(call(crowd, body)) for _ in range(NUM_WAITING + 1)]
    try:
        await asyncio.wait(crowding, return_when=asyncio.FIRST_COMPLETED)  # one found no place
        load = Load(time.monotonic(), 0.0)
        load.calls = [await call(crowd, body) for _ in range(NUM_REFUSALS)]
        load.seconds = time.monotonic() - load.started
    finally:
        for pid in engines:
            os.kill(pid, signal.SIGCONT)
    await asyncio.gather(*crowding)
    return load


async def measure(
    server: ServerProcess, port: int, *, seconds: float, rounds: int, factor: float
) -> dict[str, Any]:
    """Measure a ready server; return the line."""
    fields = {"prompt": PROMPT, "max_tokens": OUTPUT_TOKENS, "ignore_eos": True, "stream": True}
    body = json.dumps({"model": first_model(server.url), **fields}).encode()
    engines = [pid for pid, role in list_roles(server.pid) if role == "engine"]
    crowd = Crowd(port)

    async def watch(load: Awaitable[Load]) -> Load:
        before = {**server.cpu_s, GENERATOR: time.process_time()}
        seen = await load
        after = {**server.cpu_s, GENERATOR: time.process_time()}
        seen.cpu_s = {who: after[who] - before.get(who, 0.0) for who in after}
        return seen

    await keep_busy(crowd, body, seconds / 5)  # a new process is slow at first
    busy, flooded = [await watch(keep_busy(crowd, body, seconds))], []
    for number in range(rounds):
        per_s = factor * busy[-1].rate
        flooded.append(await watch(flood(crowd, body, seconds, per_s, number)))
        busy.append(await watch(keep_busy(crowd, body, seconds)))
    refused = await watch(refuse(crowd, body, engines))
    crowd.close()
    return {"kind": "overload", "factor": factor, **describe(busy, flooded, refused)}


def describe(busy: Sequence[Load], flooded: Sequence[Load], refused: Load) -> dict[str, Any]:
    """Make numbers of what happened.

    Args:
        busy: as long as the floods; one before and one after each of them.
        refused: nothing but refusals.
    """
    capacities = [(before.rate + after.rate) / 2 for before, after in pairwise(busy)]
    capacity = statistics.mean(capacities)
    goodput = statistics.mean(load.rate for load in flooded)
    answered = [each for load in flooded for each in load.of(ANSWERED)]
    told_off = [each for load in flooded for each in load.of(REFUSED)]
    outcomes = Counter(each.outcome for load in (*busy, *flooded, refused) for each in load.calls)
    whole_s = [each.whole_s for load in busy for each in load.of(ANSWERED)]
    shares = [load.rate / each for load, each in zip(flooded, capacities, strict=True)]
    return {
        "capacity_per_s": round(capacity, 2),
        "goodput_per_s": round(goodput, 2),
        "goodput_share": round(goodput / capacity, 3),
        "rounds": [round(share, 3) for share in shares],
        "answered": len(answered),
        "refused": len(told_off),
        "wrong": {name: n for name, n in outcomes.items() if name not in {ANSWERED, REFUSED}},
        "ttft_s": spread([each.first_s for each in answered]),
        # Whoever is admitted last waits for those who wait already, and for one that runs.
        "ttft_bound_s": round(NUM_WAITING / capacity + percentile(whole_s, 50), 3),
        "waited_for": spread([*map(_count_starts(answered), answered)]),
        "refusal_s": spread([each.first_s for each in told_off]),
        "answer_cpu_ms": {"busy": _share_answers(busy), "flooded": _share_answers(flooded)},
        "cores": {"busy": _count_cores(busy), "flooded": _count_cores(flooded)},
        "refusal_cpu_ms": {who: _share_cpu([refused], who) for who in (SERVER, GENERATOR)},
        "request_cpu_ms": {GENERATOR: _share_cpu(flooded, GENERATOR)},
    }


def _count_starts(answered: Sequence[Call]) -> Callable[[Call], int]:
    """Make what counts the answers that began after a request was sent and before its own did."""
    starts = sorted(each.started for each in answered)
    return lambda each: bisect_left(starts, each.started) - bisect_left(starts, each.sent)


def _share_answers(loads: Sequence[Load]) -> float:
    """Milliseconds of a processor that the server took for each answer, refusals and all."""
    num_answers = sum(len(load.of(ANSWERED)) for load in loads)
    seconds = sum(took for load in loads for who, took in load.cpu_s.items() if who != GENERATOR)
    return round(seconds / max(1, num_answers) * 1000, 3)


def _count_cores(loads: Sequence[Load]) -> dict[str, float]:
    """Cores that each process took while the loads lasted."""
    seconds = sum(load.seconds for load in loads)
    whoever = {who for load in loads for who in load.cpu_s}
    return {
        who: round(sum(load.cpu_s[who] for load in loads) / seconds, 3) for who in sorted(whoever)
    }


def _share_cpu(loads: Sequence[Load], who: str) -> float:
    """Milliseconds of a processor that each request took of a process."""
    num_calls = sum(len(load.calls) for load in loads)
    return round(sum(load.cpu_s.get(who, 0.0) for load in loads) / num_calls * 1000, 3)


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """Some percentiles; None of nothing."""
    if not values:
        return None
    points = {"p50": 50, "p90": 90, "p99": 99, "max": 100}
    return {name: round(percentile(values, at), 4) for name, at in points.items()}


def run(folder: Path, *, seconds: float, rounds: int, factor: float) -> dict[str, Any]:
    """Start a server of a tiny random model, and measure it."""
    from tests.tiny import make_checkpoint

    source = make_checkpoint("llama", folder / "model", max_position_embeddings=1024)
    port = find_free_port()
    config, log = folder / "config.yaml", folder / "log.txt"
    config.write_text(
        TINY.format(port=port, source=source, waiting=NUM_WAITING, running=NUM_RUNNING)
    )
    program = str(Path(sys.executable).with_name("llmplug"))
    url = f"http://127.0.0.1:{port}"
    command = [program, "serve", "--config", str(config)]
    with (
        ServerProcess(command, url, log, READY_TIMEOUT_S) as server,
        # Of asyncio's own loop a request would take half as much again.
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        return runner.run(measure(server, port, seconds=seconds, rounds=rounds, factor=factor))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the line, and return the exit status."""
    parser = argparse.ArgumentParser(prog="benchmarks.overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each phase")
    parser.add_argument("--rounds", type=int, default=3, help="of busy clients and of a flood")
    parser.add_argument("--factor", type=float, default=5.0, help="times the capacity")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        line = run(Path(folder), seconds=args.seconds, rounds=args.rounds, factor=args.factor)
    sys.stdout.write(f"{json.dumps({**line, 'machine': describe_machine()})}\n")
    return 1 if line["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
