"""Two servers in the same workload: ours / theirs.

Above 1 is better for us in tokens per second, below 1 in times. `median` divides the medians of
the runs; `min` and `max` divide the ends of both spreads that lie farthest apart, so that a ratio
whose whole range is on one side of 1 is no accident of which runs were lucky.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.report import Run
    from benchmarks.workload import Workload


def divide_spreads(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Return the ratio of the medians, and its least and most; empty where a side has nothing."""
    if not ours or not theirs or min(theirs) <= 0:
        return {}
    return {
        "median": round(statistics.median(ours) / statistics.median(theirs), 3),
        "min": round(min(ours) / max(theirs), 3),
        "max": round(max(ours) / min(theirs), 3),
    }


def compare_runs(ours: Sequence[Run], theirs: Sequence[Run], workload: Workload) -> dict[str, Any]:
    """Return the ratios of one workload at one number of clients, and who failed how often."""

    def medians(runs: Sequence[Run], name: str) -> list[float]:
        return [statistics.median(values) for run in runs if (values := getattr(run, name))]

    # A run in which nothing succeeded has no rate to compare.
    rates = [[run.output_tok_s for run in runs if run.ttft] for runs in (ours, theirs)]
    ratios = {
        "output_tok_s": divide_spreads(*rates),
        "ttft": divide_spreads(medians(ours, "ttft"), medians(theirs, "ttft")),
    }
    other = "prefill_tok_s" if workload.is_prefill else "tpot"
    ratios[other] = divide_spreads(medians(ours, other), medians(theirs, other))
    failures = [sum(sum(run.failures.values()) for run in runs) for runs in (ours, theirs)]
    return {**ratios, "failures": failures[0], "peer_failures": failures[1]}
