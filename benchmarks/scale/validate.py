"""A real server and the simulation, asked the same: `python -m benchmarks.scale.validate`.

One server is started. It is measured as `benchmarks.serve` does, alone and with eight clients; then
conversations are held with it, by the clock; then it is measured once more. A speed is fitted to
both measurements, and the same conversations are held with a simulated server of that speed. Prints
a line of JSON.

The answers' tokens are not known here, so that a later prompt holds others in their place: what is
found in the cache ends where the first answer begins, on both sides.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.client import Job, Timing, run_job, send
from benchmarks.machine import describe_machine
from benchmarks.report import percentile
from benchmarks.scale.fleet import Fleet
from benchmarks.scale.replica import Limits
from benchmarks.scale.routing import LeastLoaded
from benchmarks.scale.speed import Speed, fit, relative_errors
from benchmarks.scale.studies import CPU_CACHE_TOKENS, Machine, conversations_per_s
from benchmarks.scale.traffic import CHAT, Conversation, Question, draw
from benchmarks.server import ServerProcess, find_free_port, first_model
from benchmarks.workload import FIRST_ID, LAST_ID, WORKLOADS, make_prompts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.results import Line

READY_TIMEOUT_S = 300.0
MAX_PROMPT = 1800  # SmolLM2 was made for 2048 tokens, answer included
# Workload, clients, requests of each.
MEASURED = (
    ("random-128-128", 1, 3),
    ("random-128-128", 8, 2),
    ("prefill-512", 1, 3),
    ("shared-0", 1, 2),
    ("shared-0", 8, 1),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, as seen by who asked; seconds."""

    first_s: float
    whole_s: float
    num_cached: int


async def measure(url: str, model: str, seeds: Iterator[int]) -> list[Line]:
    """Measure a server that does nothing else; return rows that a speed can be fitted to.

    Args:
        seeds: a new one for each workload: no prompt is sent twice.
    """
    rows = []
    for name, clients, each in MEASURED:
        workload = WORKLOADS[name]
        job = make_job(url, model, name, clients * each, next(seeds), clients)
        started = time.monotonic()
        timings = await run_job(job)
        wall_s = time.monotonic() - started
        first_ms = [1000 * (one.content_times[0] - one.started) for one in timings]
        next_ms = [
            1000 * (one.ended - one.content_times[0]) / (workload.output_tokens - 1)
            for one in timings
        ]
        rows.append(
            {
                "kind": "row",
                "server": "real",
                "workload": name,
                "clients": clients,
                "ttft_ms": {"runs": {"median": statistics.median(first_ms)}},
                "tpot_ms": {"runs": {"median": statistics.median(next_ms)}},
                "output_tok_s": {"median": len(timings) * workload.output_tokens / wall_s},
            }
        )
    return rows


def make_job(url: str, model: str, workload: str, count: int, seed: int, clients: int = 1) -> Job:
    """Describe so many requests of a workload."""
    wanted = WORKLOADS[workload]
    prompts = make_prompts(wanted, count, seed=seed)
    return Job(url, model, prompts, wanted.output_tokens, clients)


def make_conversations(speed: Speed, load: float, seconds: float) -> list[Conversation]:
    """Draw conversations that fit the model, and of which only questions are cached."""
    profile = replace(CHAT, max_prompt=MAX_PROMPT, think_s=10.0, num_applications=3)
    machine = Machine("real", speed, Limits())
    per_s = conversations_per_s(machine, profile, load)
    drawn = list(draw(profile, per_s, seconds, seed=2))
    for conversation in drawn:
        before = 0
        for question in conversation.questions:
            question.num_output = min(question.num_output, 2040 - question.num_prompt)
            (key, instructions), *_ = question.parts
            question.parts = [(key, instructions)]
            if before:
                question.parts.append((question.conversation, before - instructions))
            before = question.num_prompt
    return drawn


async def hold_real(url: str, model: str, conversations: Sequence[Conversation]) -> list[Asked]:
    """Hold conversations with a server, by the clock."""
    found: list[Asked] = []
    started = time.monotonic()

    async def converse(conversation: Conversation) -> None:
        await asyncio.sleep(started + conversation.starts_at - time.monotonic())
        prompt: list[int] = []
        for question, think_s in zip(conversation.questions, conversation.think_s, strict=True):
            prompt = _write_prompt(question, prompt)
            job = Job(url, model, [], question.num_output, 1)
            timing = await send(job, prompt)
            found.append(_read_timing(timing))
            await asyncio.sleep(think_s)

    async with asyncio.TaskGroup() as group:
        for conversation in conversations:
            group.create_task(converse(conversation))
    return found


def hold_simulated(speed: Speed, conversations: Sequence[Conversation]) -> list[Asked]:
    """Hold them with a simulated server."""
    report = Fleet(speed, 1, LeastLoaded()).run(conversations)
    return [
        Asked(
            (one.first_at or 0) - one.asked_at, (one.ended_at or 0) - one.asked_at, one.num_cached
        )
        for one in report.outcomes
    ]


def compare(real: Sequence[Asked], simulated: Sequence[Asked]) -> dict[str, Any]:
    """Return what both saw, and by how much the simulation misses."""
    rows: dict[str, Any] = {"requests": len(real)}
    for name, values in _list_numbers(real, simulated):
        seen, said = values
        rows[name] = {
            "real": round(seen, 3),
            "simulated": round(said, 3),
            "error": round(said / seen - 1, 3) if seen else None,
        }
    return rows


def _list_numbers(*sides: Sequence[Asked]) -> Iterator[tuple[str, list[float]]]:
    for percent in (50, 90):
        yield f"ttft_p{percent}_s", [percentile([a.first_s for a in one], percent) for one in sides]
        yield (
            f"whole_p{percent}_s",
            [percentile([a.whole_s for a in one], percent) for one in sides],
        )
    yield "ttft_mean_s", [statistics.mean(a.first_s for a in one) for one in sides]
    yield "whole_mean_s", [statistics.mean(a.whole_s for a in one) for one in sides]
    yield "cached_tokens", [float(sum(a.num_cached for a in one)) for one in sides]


def _write_prompt(question: Question, before: Sequence[int]) -> list[int]:
    """Return token ids: the instructions of the application, all that was said, and more."""
    _, instructions = question.parts[0]
    start = list(before) or _draw_ids(f"application {question.application}", instructions)
    rest = question.num_prompt - len(start)
    return start + _draw_ids(f"{question.conversation} {question.turn}", rest)


def _draw_ids(seed: str, count: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randint(FIRST_ID, LAST_ID) for _ in range(count)]


def _read_timing(timing: Timing) -> Asked:
    if timing.failure:
        raise RuntimeError(timing.failure)
    return Asked(
        timing.content_times[0] - timing.started,
        timing.ended - timing.started,
        timing.cached_tokens or 0,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, compare, and print the line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale.validate", description=__doc__
    )
    parser.add_argument("--config", type=Path, default=Path("config/llama.yaml"))
    parser.add_argument("--set", action="append", default=[], help="of that config: key=value")
    parser.add_argument("--load", type=float, default=0.6, help="of what is possible without hits")
    parser.add_argument("--seconds", type=float, default=240.0, help="in which conversations begin")
    args = parser.parse_args(argv)
    port = find_free_port()
    url = f"http://127.0.0.1:{port}"
    program = str(Path(sys.executable).with_name("llmplug"))
    sets = [word for each in (*args.set, f"server.port={port}") for word in ("--set", each)]
    command = [program, "serve", "--config", str(args.config), *sets]
    with (
        tempfile.TemporaryDirectory() as folder,
        ServerProcess(command, url, Path(folder, "log.txt"), READY_TIMEOUT_S),
    ):
        model = first_model(url)
        seeds = itertools.count(1)
        asyncio.run(run_job(make_job(url, model, "random-128-128", 2, next(seeds))))  # wakes it up
        before = asyncio.run(measure(url, model, seeds))
        conversations = make_conversations(fit(before, "real"), args.load, args.seconds)
        real = asyncio.run(hold_real(url, model, conversations))
        after = asyncio.run(measure(url, model, seeds))
    speed = replace(fit(before + after, "real"), cache_tokens=CPU_CACHE_TOKENS)
    errors = relative_errors(speed, before + after, "real")
    first, last = fit(before, "real"), fit(after, "real")
    line = {
        "kind": "validation",
        "load": args.load,
        "sets": args.set,
        **compare(real, hold_simulated(speed, conversations)),
        "fit_errors": [round(error, 3) for error in errors],
        # What the machine had become meanwhile: of a prompt's cost, and of a step of eight.
        "drift": [
            round(last.prompt_s(512) / first.prompt_s(512) - 1, 3),
            round(last.decode_s(8, 2000) / first.decode_s(8, 2000) - 1, 3),
        ],
        "machine": describe_machine(),
    }
    sys.stdout.write(f"{json.dumps(line)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
