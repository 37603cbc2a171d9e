"""Timings to numbers.

Definitions:
    TTFT  request sent -> first text.
    ITL   gap between two pieces of text, divided by the tokens that a piece carries on average.
    TPOT  (end to end - TTFT) / (output tokens - 1), of each request.
    tok/s output tokens of the requests that succeeded / from the first request's start to the
          last one's end. Prompt tokens are never counted in.
    prefill tok/s   prompt tokens that were not cached / TTFT, of each request.
    hit rate        cached prompt tokens / prompt tokens, as the server reports them.
    HTTP share      processor time of all but the engine process / (wall time x cores).
    foreign cores   busy with neither the server nor the harness: on a quiet machine near 0.
    engine share    of each phase of the engine's loop, of wall time; `host` is schedule + record.
"""

from __future__ import annotations

import os
import statistics
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.client import Timing
    from benchmarks.cost import Limit
    from benchmarks.workload import Workload

# Of a prompt: a start-of-text token that the server puts before it may be cached.
SPARE_HITS = 0.02
HOST_PHASES = ("schedule", "record")


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one workload, in seconds and tokens, and what the server took for it.

    Attributes:
        cpu_s: processor time by role; empty where the server's processes are not known.
        engine_s: time by phase of our engine's loop; empty for others.
        foreign_cores: cores that were busy with something else meanwhile.
        limit: the machine's, by the probe before this run's server; None: not known.
    """

    ttft: list[float]
    tpot: list[float]
    itl: list[float]
    e2e: list[float]
    prefill_tok_s: list[float]
    elapsed_s: float
    output_tok_s: float
    tokens_per_chunk: float
    prompt_tokens: int
    cached_tokens: int | None
    failures: Counter[str]
    cpu_s: Mapping[str, float] = field(default_factory=dict)
    engine_s: Mapping[str, float] = field(default_factory=dict)
    foreign_cores: float | None = None
    peak_rss_bytes: int | None = None
    limit: Limit | None = None


class ImpossibleNumberError(ValueError):
    """A measurement is better than the machine allows, or measures something else."""


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value at `percent`, linear between neighbours; raises ValueError if empty."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def summarise_run(timings: Sequence[Timing]) -> Run:
    """Turn the timings of one run into latencies and throughput."""
    good = [timing for timing in timings if not timing.failure]
    ttft, tpot, itl, e2e, prefill = [], [], [], [], []
    for timing in good:
        first = timing.content_times[0]
        ttft.append(first - timing.started)
        e2e.append(timing.ended - timing.started)
        tpot.append((timing.ended - first) / (timing.output_tokens - 1))
        tokens_per_chunk = timing.output_tokens / len(timing.content_times)
        itl += [(b - a) / tokens_per_chunk for a, b in pairwise(timing.content_times)]
        prefill.append((timing.prompt_tokens - (timing.cached_tokens or 0)) / ttft[-1])
    tokens = sum(timing.output_tokens for timing in good)
    chunks = sum(len(timing.content_times) for timing in good)
    cached = [timing.cached_tokens for timing in good if timing.cached_tokens is not None]
    elapsed = max(t.ended for t in timings) - min(t.started for t in timings)
    return Run(
        ttft=ttft,
        tpot=tpot,
        itl=itl,
        e2e=e2e,
        prefill_tok_s=prefill,
        elapsed_s=elapsed,
        output_tok_s=tokens / elapsed,
        tokens_per_chunk=tokens / chunks if chunks else 0.0,
        prompt_tokens=sum(timing.prompt_tokens for timing in good),
        cached_tokens=sum(cached) if cached else None,
        failures=Counter(timing.failure for timing in timings if timing.failure),
    )


def spread(values: Sequence[float], digits: int = 2) -> dict[str, float]:
    """Return median, least and most of the runs."""
    return {
        "median": round(statistics.median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
    }


def in_ms(runs: Sequence[list[float]]) -> dict[str, Any]:
    """Return percentiles over all requests, and the spread of the runs' medians, in ms."""
    pooled = [1000 * value for run in runs for value in run]
    if not pooled:
        return {}
    points = {f"p{at}": round(percentile(pooled, at), 2) for at in (50, 90, 99)}
    medians = [1000 * percentile(run, 50) for run in runs if run]
    return {**points, "runs": spread(medians)}


def summarise_row(runs: Sequence[Run], workload: Workload) -> dict[str, Any]:
    """Turn the runs of one workload at one concurrency into one row.

    Raises:
        ImpossibleNumberError: a run is faster than its limit.
    """
    failures = sum((run.failures for run in runs), Counter())
    row: dict[str, Any] = {
        "output_tok_s": spread([run.output_tok_s for run in runs]),
        "ttft_ms": in_ms([run.ttft for run in runs]),
    }
    if workload.is_prefill:
        rates = [statistics.median(run.prefill_tok_s) for run in runs if run.prefill_tok_s]
        row["prefill_tok_s"] = spread(rates) if rates else {}
    else:
        row["tpot_ms"] = in_ms([run.tpot for run in runs])
        row["itl_ms"] = in_ms([run.itl for run in runs])
        row["tokens_per_chunk"] = round(statistics.median(run.tokens_per_chunk for run in runs), 2)
    row |= {
        "e2e_ms": in_ms([run.e2e for run in runs]),
        **summarise_prompts(runs),
        "failures": dict(failures),
        **summarise_processes(runs),
    }
    limits = [run.limit for run in runs if run.limit]
    if limits:
        row["limit"] = compare_with_limit(runs, limits[-1], workload)
    return row


def summarise_prompts(runs: Sequence[Run]) -> dict[str, Any]:
    """Return how long prompts were on average, and what part of them was cached."""
    served = sum(len(run.ttft) for run in runs)
    sent = sum(run.prompt_tokens for run in runs)
    cached = [run.cached_tokens for run in runs if run.cached_tokens is not None]
    return {
        "prompt_tokens": round(sent / served, 1) if served else 0,
        "cached_tokens": sum(cached) if cached else None,
        "hit_rate": round(sum(cached) / sent, 4) if cached and sent else None,
    }


def summarise_processes(runs: Sequence[Run]) -> dict[str, Any]:
    """Return what the server's processes took: processor time by role, memory, engine phases."""
    cores = len(os.sched_getaffinity(0))
    wall_s = sum(run.elapsed_s for run in runs)
    fields: dict[str, Any] = {"wall_s": round(wall_s, 3)}
    roles = sorted({role for run in runs for role in run.cpu_s})
    if roles:
        cpu_s = {role: sum(run.cpu_s.get(role, 0.0) for run in runs) for role in roles}
        fields["cpu_s"] = {role: round(seconds, 2) for role, seconds in cpu_s.items()}
        fields["cpu_share"] = round(sum(cpu_s.values()) / (wall_s * cores), 4)
    if "engine" in roles:
        shares = [run.cpu_s.get("server", 0.0) / (run.elapsed_s * cores) for run in runs]
        fields["http_share"] = spread(shares, digits=4)
    phases = sorted({phase for run in runs for phase in run.engine_s})
    if phases:
        phase_s = {phase: sum(run.engine_s.get(phase, 0.0) for run in runs) for phase in phases}
        phase_s["host"] = sum(phase_s.get(phase, 0.0) for phase in HOST_PHASES)
        fields["engine_share"] = {name: round(s / wall_s, 4) for name, s in phase_s.items()}
    foreign = [run.foreign_cores for run in runs if run.foreign_cores is not None]
    if foreign:
        fields["foreign_cores"] = spread(foreign, digits=3)
    peaks = [run.peak_rss_bytes for run in runs if run.peak_rss_bytes is not None]
    fields["peak_rss_mib"] = round(max(peaks) / 2**20) if peaks else None
    return fields


def check_hits(run: Run, workload: Workload) -> None:
    """Refuse a run that found more of its prompts cached than the workload shares.

    Raises:
        ImpossibleNumberError: it did; the prompts were sent before, or are cut short.
    """
    if not run.cached_tokens:
        return
    hit_rate = run.cached_tokens / run.prompt_tokens
    if hit_rate > workload.shared + SPARE_HITS:
        raise ImpossibleNumberError(
            f"{hit_rate:.0%} of the prompts were cached, where {workload.name} shares "
            f"{workload.shared:.0%}: the server knows these prompts; start it anew, or set --seed"
        )


def compare_with_limit(runs: Sequence[Run], limit: Limit, workload: Workload) -> dict[str, Any]:
    """Return what part of the limit the best run reaches; 1 is all that the machine can do.

    Args:
        limit: the one to show; each run is compared with its own.

    Raises:
        ImpossibleNumberError: a run passes it.
    """
    throughput = ttft = tpot = 0.0
    for run in runs:
        if run.limit is None or not run.ttft:
            continue
        throughput = max(throughput, run.output_tok_s / run.limit.output_tok_s)
        ttft = max(ttft, run.limit.ttft_s / min(run.ttft))
        if not workload.is_prefill:
            tpot = max(tpot, run.limit.tpot_s / min(run.tpot))
    if max(throughput, ttft, tpot) > 1:
        raise ImpossibleNumberError(
            f"{throughput:.2f} of the machine's throughput, {ttft:.2f} of its speed to the first "
            f"token, {tpot:.2f} of its speed per token: look for cached prompts, lost tokens, or "
            "a model cost that is too high"
        )
    compared: dict[str, Any] = {
        "output_tok_s": round(limit.output_tok_s, 1),
        "ttft_ms": round(1000 * limit.ttft_s, 3),
        "tpot_ms": round(1000 * limit.tpot_s, 3),
        "bound": limit.bound,
        "throughput_ratio": round(throughput, 3),
        "ttft_ratio": round(ttft, 3),
    }
    if not workload.is_prefill:
        compared["tpot_ratio"] = round(tpot, 3)
    return compared
