"""What is done with one server while it runs: warm it up, measure it, watch it idle."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from benchmarks.client import Job, run_clients
from benchmarks.cost import Limit, ModelCost, find_limit
from benchmarks.processes import read_busy_s, read_harness_s
from benchmarks.report import Run, check_hits, summarise_run
from benchmarks.server import ServerProcess, read_engine_s
from benchmarks.workload import Workload, make_prompts

if TYPE_CHECKING:
    import argparse

    from benchmarks.probe import Probe
    from benchmarks.target import Target

WARM_UP = Workload("warm-up", 64, 16)
PRIMER_TOKENS = 2  # that the request which fills the prefix cache asks for


@dataclass(frozen=True, slots=True)
class Counters:
    """Seconds so far, or between two moments.

    Attributes:
        at: of the clock.
        cpu_s: of the processor, by role of the server's processes.
        engine_s: by phase of our engine's loop.
        busy_s: of all cores, whoever with.
        harness_s: of the processor, by the harness and its clients.
    """

    at: float
    cpu_s: dict[str, float]
    engine_s: dict[str, float]
    busy_s: float
    harness_s: float

    def __sub__(self, before: Counters) -> Counters:
        return Counters(
            at=self.at - before.at,
            cpu_s=_subtract(self.cpu_s, before.cpu_s),
            engine_s=_subtract(self.engine_s, before.engine_s),
            busy_s=self.busy_s - before.busy_s,
            harness_s=self.harness_s - before.harness_s,
        )

    @property
    def foreign_s(self) -> float:
        """Of the processor, by nobody who has to do with the measurement."""
        return max(0.0, self.busy_s - self.harness_s - sum(self.cpu_s.values()))


def _subtract(after: dict[str, float], before: dict[str, float]) -> dict[str, float]:
    return {name: value - before.get(name, 0.0) for name, value in after.items()}


@dataclass(slots=True)
class Session:
    """One server while it runs, in one round; `machine` is what is known of its limits."""

    args: argparse.Namespace
    target: Target
    round: int
    url: str
    process: ServerProcess | None
    model: str
    machine: Probe
    cost: ModelCost | None

    def make_job(self, prompts: list[list[int]], output_tokens: int, clients: int) -> Job:
        """Return what the clients are to send."""
        return Job(
            url=self.url,
            model=self.model,
            prompts=prompts,
            output_tokens=output_tokens,
            concurrency=clients,
            api=self.target.api,
            fields=dict(self.target.fields),
            needs_done=self.target.is_ours,
        )

    def warm_up(self, clients: int) -> tuple[float, int]:
        """Send requests that are not counted; return their seconds, and how many failed.

        Raises:
            RuntimeError: one failed, of ours; all did, of a peer.
        """
        started = time.monotonic()
        prompts = make_prompts(WARM_UP, clients, seed=0)
        timings = run_clients(self.make_job(prompts, WARM_UP.output_tokens, clients))
        failed = [timing.failure for timing in timings if timing.failure]
        if failed and (self.target.is_ours or len(failed) == len(timings)):
            raise RuntimeError(f"the server does not serve: {'; '.join(sorted(set(failed)))}")
        return time.monotonic() - started, len(failed)

    def measure_row(self, workload: Workload, clients: int) -> list[Run]:
        """Run one workload several times, with prompts that no run before it had."""
        count = self.args.requests or max(4, 2 * clients)
        first = self.round * self.args.runs
        return [
            self.measure_run(workload, clients, count, run)
            for run in range(first, first + self.args.runs)
        ]

    def measure_run(self, workload: Workload, clients: int, count: int, run: int) -> Run:
        """Run one workload once.

        Raises:
            ImpossibleNumberError: more of its prompts were cached than they share.
        """
        seed = 1_000_000 * self.args.seed + 1_000 * clients + run
        primer, *prompts = make_prompts(workload, count + 1, seed=seed)
        if workload.shared_prefix:
            run_clients(self.make_job([primer], PRIMER_TOKENS, 1))
        before = self.read_counters()
        timings = run_clients(
            self.make_job(prompts, workload.output_tokens, clients), self.args.client_processes
        )
        spent = self.read_counters() - before
        measured = replace(
            summarise_run(timings),
            cpu_s=spent.cpu_s,
            engine_s=spent.engine_s,
            foreign_cores=spent.foreign_s / spent.at if self.process else None,
            peak_rss_bytes=self.process.peak_rss_bytes if self.process else None,
            limit=self.find_limit(workload, clients),
        )
        if self.target.api != "chat":  # a template's first tokens are the same for all
            check_hits(measured, workload)
        return measured

    def find_limit(self, workload: Workload, clients: int) -> Limit | None:
        """Return the best that the machine allows; None where the model's cost is not known."""
        return find_limit(self.cost, self.machine, workload, clients) if self.cost else None

    def read_counters(self) -> Counters:
        """Return what has been taken so far."""
        return Counters(
            at=time.monotonic(),
            cpu_s=self.process.cpu_s if self.process else {},
            engine_s=read_engine_s(self.url) if self.target.is_ours else {},
            busy_s=read_busy_s(),
            harness_s=read_harness_s(),
        )

    def watch_idle(self, seconds: float) -> dict[str, Any]:
        """Return what the server's processes take while nobody asks for anything."""
        before = self.read_counters()
        time.sleep(seconds)
        cpu_s = (self.read_counters() - before).cpu_s
        percent = 100 * sum(cpu_s.values()) / seconds
        rounded = {role: round(spent, 3) for role, spent in cpu_s.items()}
        return {"idle_s": seconds, "cpu_s": rounded, "percent": round(percent, 2)}
