"""What a server takes: memory, open files, what requests hold; and whether it grows."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.processes import list_roles, read_rss
from llmplug.attack.leftovers import TABLES

if TYPE_CHECKING:
    import httpx

# What a process may grow by while its vitals are watched and still count as flat: allocators keep
# what threads and buffers took at their busiest.
FLAT_SHARE = 0.05
FLAT_FILES = 4.0


@dataclass(frozen=True, slots=True)
class Vitals:
    """At one moment; by process: `supervisor`, `http`, `engine`, `grammars`."""

    at: float  # of the monotonic clock
    rss_bytes: dict[str, int] = field(default_factory=dict)
    num_files: dict[str, int] = field(default_factory=dict)  # all but sockets
    # Clients come and go: these are compared when there are none, and have no slope.
    num_sockets: dict[str, int] = field(default_factory=dict)


def read_vitals(pid: int) -> Vitals:
    """Look at `llmplug serve` and all that it started."""
    rss: dict[str, int] = defaultdict(int)
    files: dict[str, int] = defaultdict(int)
    sockets: dict[str, int] = defaultdict(int)
    others = iter(("supervisor", "http"))
    for member, role in list_roles(pid):
        name = role if role == "engine" else next(others, "grammars")
        rss[name] += read_rss(member)
        opened = list_files(member)
        sockets[name] += sum(target.startswith("socket:") for target in opened)
        files[name] += sum(not target.startswith("socket:") for target in opened)
    return Vitals(time.monotonic(), dict(rss), dict(files), dict(sockets))


def list_files(pid: int) -> list[str]:
    """What the open files of a process are; none when it is gone."""
    targets = []
    with suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                targets.append(str(entry.readlink()))
    return targets


async def read_gauges(http: httpx.AsyncClient) -> dict[str, float]:
    """What requests hold right now, all 0 when there are none: sums over models."""
    answer = await http.get("/metrics")
    sums: dict[str, float] = defaultdict(float)
    for family in text_string_to_metric_families(answer.raise_for_status().text):
        for sample in family.samples:
            if sample.name in TABLES:
                sums[sample.name] += sample.value
    return dict(sums)


def find_slopes(series: Sequence[Vitals]) -> dict[str, dict[str, float]]:
    """Return by process how memory and files grow: bytes and files an hour, by least squares."""
    slopes: dict[str, dict[str, float]] = {}
    for name in sorted({name for vitals in series for name in vitals.rss_bytes}):
        seen = [vitals for vitals in series if name in vitals.rss_bytes]
        hours = [vitals.at / 3600 for vitals in seen]
        if len(set(hours)) < 2:
            continue
        rss = statistics.linear_regression(hours, [each.rss_bytes[name] for each in seen])
        files = statistics.linear_regression(hours, [each.num_files[name] for each in seen])
        slopes[name] = {"rss_bytes_per_h": rss.slope, "files_per_h": files.slope}
    return slopes


def find_growth(series: Sequence[Vitals]) -> list[str]:
    """Say which processes grew, along their slopes, by more than counts as flat."""
    if len(series) < 2:
        return []
    hours = (series[-1].at - series[0].at) / 3600
    problems = []
    for name, slope in find_slopes(series).items():
        grown = slope["rss_bytes_per_h"] * hours
        typical = statistics.median(each.rss_bytes.get(name, 0) for each in series)
        if grown > FLAT_SHARE * typical:
            problems.append(f"{name} grew by {grown / 2**20:.1f} MiB in {hours * 60:.1f} minutes")
        if slope["files_per_h"] * hours > FLAT_FILES:
            problems.append(f"{name} opened {slope['files_per_h'] * hours:.0f} files more")
    return problems


def describe_vitals(vitals: Vitals) -> dict[str, Any]:
    """As they are reported: MiB and files, by process."""
    return {
        "rss_mib": {name: round(rss / 2**20, 1) for name, rss in vitals.rss_bytes.items()},
        "files": dict(vitals.num_files),
        "sockets": dict(vitals.num_sockets),
    }
