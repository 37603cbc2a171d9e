"""Timings to numbers.

Definitions:
    TTFT  request sent -> first text.
    ITL   gap between two pieces of text, divided by the tokens that a piece carries on average.
    TPOT  (end to end - TTFT) / (output tokens - 1), of each request.
    tok/s output tokens of the requests that succeeded / from the first request's start to the
          last one's end. Prompt tokens are never counted in.
"""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.client import Timing
    from benchmarks.cost import Limit


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one workload, in seconds."""

    ttft: list[float]
    tpot: list[float]
    itl: list[float]
    e2e: list[float]
    output_tok_s: float
    tokens_per_chunk: float
    failures: Counter[str]


class ImpossibleNumberError(ValueError):
    """A measurement is better than the machine allows."""


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
    ttft, tpot, itl, e2e = [], [], [], []
    for timing in good:
        first = timing.content_times[0]
        ttft.append(first - timing.started)
        e2e.append(timing.ended - timing.started)
        tpot.append((timing.ended - first) / (timing.output_tokens - 1))
        tokens_per_chunk = timing.output_tokens / len(timing.content_times)
        itl += [(b - a) / tokens_per_chunk for a, b in pairwise(timing.content_times)]
    tokens = sum(timing.output_tokens for timing in good)
    chunks = sum(len(timing.content_times) for timing in good)
    elapsed = max(t.ended for t in timings) - min(t.started for t in timings)
    return Run(
        ttft=ttft,
        tpot=tpot,
        itl=itl,
        e2e=e2e,
        output_tok_s=tokens / elapsed,
        tokens_per_chunk=tokens / chunks if chunks else 0.0,
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


def summarise_row(runs: Sequence[Run], limit: Limit | None) -> dict[str, Any]:
    """Turn the runs of one workload at one concurrency into one row.

    Raises:
        ImpossibleNumberError: a run is faster than the limit.
    """
    failures = sum((run.failures for run in runs), Counter())
    row: dict[str, Any] = {
        "output_tok_s": spread([run.output_tok_s for run in runs]),
        "ttft_ms": in_ms([run.ttft for run in runs]),
        "tpot_ms": in_ms([run.tpot for run in runs]),
        "itl_ms": in_ms([run.itl for run in runs]),
        "e2e_ms": in_ms([run.e2e for run in runs]),
        "tokens_per_chunk": round(statistics.median(run.tokens_per_chunk for run in runs), 2),
        "failures": dict(failures),
    }
    if limit is not None:
        row["limit"] = compare_with_limit(runs, limit)
    return row


def compare_with_limit(runs: Sequence[Run], limit: Limit) -> dict[str, Any]:
    """Return what part of the limit is reached; 1 is all that the machine can do."""
    throughput = max(run.output_tok_s for run in runs) / limit.output_tok_s
    best_tpot = min((min(run.tpot) for run in runs if run.tpot), default=float("inf"))
    tpot = limit.tpot_s / best_tpot
    if throughput > 1 or tpot > 1:
        raise ImpossibleNumberError(
            f"{throughput:.2f} of the machine's throughput, {tpot:.2f} of its speed per token: "
            "look for cached prompts, lost tokens, or a model cost that is too high"
        )
    return {
        "output_tok_s": round(limit.output_tok_s, 1),
        "tpot_ms": round(1000 * limit.tpot_s, 3),
        "bound": limit.bound,
        "throughput_ratio": round(throughput, 3),
        "tpot_ratio": round(tpot, 3),
    }
