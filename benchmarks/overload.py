"""More than a server can do: `python -m benchmarks.overload`, prints a line of JSON.

First as many clients as keep the server busy ask one request after another: that is its capacity.
Then requests come at a multiple of that rate, whether others have been answered or not, as they do
from a crowd that does not know of each other. The two take turns, as a machine changes. What is
admitted should be as much as the capacity, and start soon; the rest should be refused at once.
Exit status 1: a request ended in any other way.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from benchmarks.machine import describe_machine
from benchmarks.report import percentile
from benchmarks.server import ServerProcess, find_free_port, first_model

if TYPE_CHECKING:
    from collections.abc import Sequence

READY_TIMEOUT_S = 300.0
OUTPUT_TOKENS = 100
PROMPT = "Tell me about it. "
NUM_RUNNING = 4  # sequences at once: few, so that the model is the limit and not the HTTP process
NUM_WAITING = 8  # requests that may wait
ANSWERED, REFUSED = "answered", "refused"
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


@dataclass(slots=True)
class Load:
    """Requests of one phase."""

    started: float
    seconds: float
    calls: list[Call] = field(default_factory=list)

    def of(self, outcome: str) -> list[Call]:
        """The calls that ended so."""
        return [call for call in self.calls if call.outcome == outcome]

    @property
    def rate(self) -> float:
        """Answers a second, of those that ended while the load lasted."""
        ends_at = self.started + self.seconds
        return sum(call.ended <= ends_at for call in self.of(ANSWERED)) / self.seconds


async def call(http: httpx.AsyncClient, model: str) -> Call:
    """Send one request and read its answer to the end."""
    body = {"model": model, "prompt": PROMPT, "max_tokens": OUTPUT_TOKENS, "ignore_eos": True}
    started = time.monotonic()
    first_s = None
    async with http.stream("POST", "/v1/completions", json={**body, "stream": True}) as response:
        text = b""
        async for part in response.aiter_bytes():
            first_s = first_s or time.monotonic() - started
            text += part
    ended = time.monotonic()
    outcome = judge(response, text)
    return Call(outcome, first_s or ended - started, ended - started, ended)


def judge(response: httpx.Response, text: bytes) -> str:
    """Say what came of a request."""
    if response.status_code == httpx.codes.OK:
        is_whole = text.endswith(b"data: [DONE]\n\n") and b'"finish_reason":"length"' in text
        return ANSWERED if is_whole else f"broken stream: {text[-200:]!r}"
    if response.status_code == httpx.codes.TOO_MANY_REQUESTS and "Retry-After" in response.headers:
        return REFUSED
    return f"{response.status_code} {text[:200]!r}"


async def keep_busy(http: httpx.AsyncClient, model: str, seconds: float) -> Load:
    """Ask with as many clients as run and wait, without a single refusal."""
    load = Load(time.monotonic(), seconds)

    async def ask() -> None:
        while time.monotonic() < load.started + seconds:
            load.calls.append(await call(http, model))

    async with asyncio.TaskGroup() as group:
        for _ in range(NUM_RUNNING + NUM_WAITING // 2):
            group.create_task(ask())
    return load


async def flood(
    http: httpx.AsyncClient, model: str, seconds: float, per_s: float, seed: int
) -> Load:
    """Ask at a rate, at random moments, whatever becomes of the requests."""
    rng = random.Random(seed)
    load = Load(time.monotonic(), seconds)

    async def ask() -> None:
        load.calls.append(await call(http, model))

    next_at = load.started
    async with asyncio.TaskGroup() as group:
        while (next_at := next_at + rng.expovariate(per_s)) < load.started + seconds:
            await asyncio.sleep(next_at - time.monotonic())
            group.create_task(ask())
    return load


async def measure(
    url: str, model: str, *, seconds: float, rounds: int, factor: float
) -> dict[str, Any]:
    """Measure a ready server; return the line."""
    busy: list[Load] = []
    flooded: list[Load] = []
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    async with httpx.AsyncClient(
        base_url=url, timeout=READY_TIMEOUT_S, trust_env=False, limits=limits
    ) as http:
        await keep_busy(http, model, seconds / 5)  # a new process is slow at first
        for number in range(rounds):
            busy.append(await keep_busy(http, model, seconds))
            flooded.append(await flood(http, model, seconds, factor * busy[-1].rate, number))
    return {"kind": "overload", "factor": factor, **describe(busy, flooded)}


def describe(busy: Sequence[Load], flooded: Sequence[Load]) -> dict[str, Any]:
    """Make numbers of what happened; the phases of both kinds are as long."""
    capacity = statistics.mean(load.rate for load in busy)
    goodput = statistics.mean(load.rate for load in flooded)
    answered = [each for load in flooded for each in load.of(ANSWERED)]
    refused = [each for load in flooded for each in load.of(REFUSED)]
    outcomes = Counter(each.outcome for load in (*busy, *flooded) for each in load.calls)
    whole_s = [each.whole_s for load in busy for each in load.of(ANSWERED)]
    return {
        "capacity_per_s": round(capacity, 2),
        "goodput_per_s": round(goodput, 2),
        "goodput_share": round(goodput / capacity, 3),
        "rounds": [round(f.rate / b.rate, 3) for b, f in zip(busy, flooded, strict=True)],
        "answered": len(answered),
        "refused": len(refused),
        "wrong": {name: n for name, n in outcomes.items() if name not in {ANSWERED, REFUSED}},
        "ttft_s": spread([each.first_s for each in answered]),
        # Whoever is admitted last waits for those who wait already, and for one that runs.
        "ttft_bound_s": round(NUM_WAITING / capacity + percentile(whole_s, 50), 3),
        "refusal_s": spread([each.first_s for each in refused]),
    }


def spread(seconds: Sequence[float]) -> dict[str, float] | None:
    """Some percentiles; None of nothing."""
    if not seconds:
        return None
    points = {"p50": 50, "p90": 90, "p99": 99, "max": 100}
    return {name: round(percentile(seconds, at), 4) for name, at in points.items()}


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
    with ServerProcess([program, "serve", "--config", str(config)], url, log, READY_TIMEOUT_S):
        model = first_model(url)
        return asyncio.run(measure(url, model, seconds=seconds, rounds=rounds, factor=factor))


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
