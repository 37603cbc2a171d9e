"""One server, one storm, one calm: what became of the requests, and what the server keeps."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from benchmarks.soak.clients import Crowd, Kind, Outcome, open_client, read_answers
from benchmarks.soak.kills import Killer
from benchmarks.soak.questions import list_questions
from benchmarks.soak.vitals import (
    Vitals,
    describe_vitals,
    find_growth,
    find_slopes,
    read_gauges,
    read_vitals,
)

if TYPE_CHECKING:
    import httpx

LOOK_S = 1.0  # between two looks at the vitals
SETTLE_S = 30.0  # after the last request until nothing is held any more
WARM_UP_S = 3.0
# A connection that was idle when its process died may be found broken by the next request on it.
STALE_S = 1.0
# The calm begins with what a new process takes for its first requests.
CALM_WARM_SHARE = 0.25
MAX_RSS_GROWTH_BYTES = 48 * 2**20  # from before the storm until after it, of all processes
MAX_FILES_GROWTH = 8


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done to a server. Seconds; 0: never."""

    num_clients: int
    storm_s: float
    calm_s: float
    engine_every_s: float
    http_every_s: float
    think_s: float = 0.0  # mean, of a client between two requests
    seed: int = 0


@dataclass(slots=True)
class Report:
    """What came of it; `problems` is empty if all is as it should be."""

    plan: Plan
    outcomes: Counter[str] = field(default_factory=Counter)
    num_engine_kills: int = 0
    num_http_kills: int = 0
    recoveries_s: Sequence[float] = ()
    before: Vitals | None = None
    after: Vitals | None = None
    slopes: dict[str, dict[str, float]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def describe(self) -> dict[str, Any]:
        """One line of JSON."""
        recoveries = sorted(self.recoveries_s)
        return {
            "kind": "soak",
            "clients": self.plan.num_clients,
            "think_s": self.plan.think_s,
            "storm_s": self.plan.storm_s,
            "calm_s": self.plan.calm_s,
            "requests": sum(self.outcomes.values()),
            "outcomes": dict(self.outcomes),
            "engine_kills": self.num_engine_kills,
            "http_kills": self.num_http_kills,
            "recovery_s": {
                "p50": round(statistics.median(recoveries), 2),
                "max": round(recoveries[-1], 2),
            }
            if recoveries
            else None,
            "before": describe_vitals(self.before) if self.before else None,
            "after": describe_vitals(self.after) if self.after else None,
            "slopes": {
                name: {
                    "rss_mib_per_h": round(slope["rss_bytes_per_h"] / 2**20, 2),
                    "files_per_h": round(slope["files_per_h"], 2),
                }
                for name, slope in self.slopes.items()
            },
            "problems": self.problems[:20],
        }


async def soak(pid: int, url: str, model: str, plan: Plan) -> Report:
    """Let clients ask a ready server while its processes are killed, then while they are not.

    Args:
        pid: of `llmplug serve`.
    """
    report = Report(plan)
    async with open_client(url) as http:
        answers = {key: text async for key, text in read_answers(http, list_questions(), model)}
        crowd = Crowd(url, model, answers, plan.think_s)
        await crowd.run(plan.num_clients, _after(WARM_UP_S), seed=plan.seed - 1)
        report.problems += await find_leftovers(http)
        report.before = read_vitals(pid)
        killer = Killer(pid, http)
        await _storm(crowd, killer, plan)
        report.problems += judge(crowd.outcomes, killer)
        report.problems += await find_leftovers(http)
        num_before = len(crowd.outcomes)
        calm = await _calm(crowd, pid, plan)
        report.problems += judge_calm(crowd.outcomes[num_before:])
        report.problems += find_growth(calm)
        report.slopes = find_slopes(calm)
        report.problems += await find_leftovers(http)
        report.after = read_vitals(pid)
    report.problems += compare_vitals(report.before, report.after)
    report.outcomes = Counter(outcome.kind.value for outcome in crowd.outcomes)
    report.num_engine_kills = len(killer.engine_kills)
    report.num_http_kills = len(killer.http_kills)
    report.recoveries_s = [end - start for start, end in killer.downtimes]
    return report


def _after(seconds: float) -> Callable[[], bool]:
    ends_at = time.monotonic() + seconds
    return lambda: time.monotonic() >= ends_at


async def _storm(crowd: Crowd, killer: Killer, plan: Plan) -> None:
    has_ended = _after(plan.storm_s)
    async with asyncio.TaskGroup() as group:
        group.create_task(crowd.run(plan.num_clients, has_ended, plan.seed))
        rng = random.Random(plan.seed)
        group.create_task(killer.run(has_ended, plan.engine_every_s, plan.http_every_s, rng))
    await killer.wait_ready()


async def _calm(crowd: Crowd, pid: int, plan: Plan) -> list[Vitals]:
    """Ask on without kills; return what was seen once the processes are warm."""
    if not plan.calm_s:
        return []
    series: list[Vitals] = []
    has_ended, is_warm = _after(plan.calm_s), _after(plan.calm_s * CALM_WARM_SHARE)

    async def watch() -> None:
        while not has_ended():
            await asyncio.sleep(LOOK_S)
            if is_warm():
                series.append(read_vitals(pid))

    async with asyncio.TaskGroup() as group:
        group.create_task(crowd.run(plan.num_clients, has_ended, plan.seed + 1))
        group.create_task(watch())
    return series


def judge(outcomes: Sequence[Outcome], killer: Killer) -> list[str]:
    """Say which requests ended as no kill explains."""
    problems = []
    for outcome in outcomes:
        died = _count(killer.engine_kills, outcome, 0.0)
        broke = _count(killer.http_kills, outcome, STALE_S)
        is_explained = {
            Kind.ANSWERED: True,
            Kind.LEFT: True,
            Kind.WRONG: False,
            Kind.LOST: broke > 0,
            # What was in the batch at two deaths is not asked a third time, and is told 500.
            Kind.FAILED: died > 1 if outcome.words.startswith("500") else died > 0,
            Kind.REFUSED: killer.was_down(outcome.started, outcome.ended),
        }
        if not is_explained[outcome.kind]:
            problems.append(f"{outcome.kind}: {outcome.words}")
    return problems


def judge_calm(outcomes: Sequence[Outcome]) -> list[str]:
    """Say which requests ended as they may only where something is killed."""
    return [
        f"{outcome.kind} though nothing was killed: {outcome.words}"
        for outcome in outcomes
        if outcome.kind not in {Kind.ANSWERED, Kind.LEFT}
    ]


def _count(kills: Sequence[float], outcome: Outcome, before_s: float) -> int:
    return sum(outcome.started - before_s <= kill <= outcome.ended for kill in kills)


async def find_leftovers(http: httpx.AsyncClient) -> list[str]:
    """Wait until nothing is held any more; say what still is."""
    ends_at = time.monotonic() + SETTLE_S
    while True:
        held = {name: value for name, value in (await read_gauges(http)).items() if value}
        if not held:
            return []
        if time.monotonic() > ends_at:
            return [f"left behind: {held}"]
        await asyncio.sleep(0.1)


def compare_vitals(before: Vitals, after: Vitals) -> list[str]:
    """Say what did not come back to where it was."""
    problems = []
    grown = sum(after.rss_bytes.values()) - sum(before.rss_bytes.values())
    if grown > MAX_RSS_GROWTH_BYTES:
        problems.append(f"{grown / 2**20:.0f} MiB more memory than before")
    for kind, now, then in (
        ("files", after.num_files, before.num_files),
        ("sockets", after.num_sockets, before.num_sockets),
    ):
        for name, count in now.items():
            if count > then.get(name, 0) + MAX_FILES_GROWTH:
                problems.append(f"{name}: {count} open {kind}, {then.get(name, 0)} before")
    return problems
