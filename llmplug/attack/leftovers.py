"""What must be there after an attack: readiness; and what must not: state, and memory."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from llmplug.conformance.checks import expect
from llmplug.errors import ConfigError

if TYPE_CHECKING:
    from llmplug.conformance.target import Target

SETTLE_S = 10.0  # an engine says once a step what it holds
MAX_GROWTH_BYTES = 32 * 2**20
# What a request takes while it is worked on, by the name of the gauge that counts it.
TABLES = (
    "llmplug_requests_running",
    "llmplug_prompts_waiting",
    "llmplug_bodies_bytes",
    "llmplug_generations_running",
    "llmplug_running",
    "llmplug_waiting",
    "llmplug_cache_pages_used",
)


def expect_ready(target: Target) -> None:
    """The server says that it is ready.

    Raises:
        CheckFailed: it does not; a server without such a place is not asked again.
    """
    answer = target.ask("GET", "/ready")
    if answer.status == 404:
        answer = target.ask("GET", "/health")
    expect(answer.status == 200, f"not ready afterwards: {answer.status} {answer.body[:120]!r}")


def expect_no_state(target: Target) -> None:
    """Tables that a server counts in `/metrics` are empty again; where it counts none, all is well.

    Raises:
        CheckFailed: something is left.
    """
    deadline = time.monotonic() + SETTLE_S
    while left := _read_tables(target):
        expect(time.monotonic() < deadline, f"left behind: {left}")
        time.sleep(0.02)


def _read_tables(target: Target) -> dict[str, float]:
    """What is not empty."""
    answer = target.ask("GET", "/metrics")
    if answer.status != 200:
        return {}
    left = {}
    for line in answer.body.decode().splitlines():
        series, _, value = line.rpartition(" ")
        if series.partition("{")[0] in TABLES and float(value) != 0:
            left[series] = float(value)
    return left


class ProcessMemory:
    """The memory of a server on this machine: of its process and all that it started.

    Raises:
        ConfigError: there is no such process, or this system does not tell.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        if not Path(f"/proc/{pid}/status").exists():
            raise ConfigError(f"/proc knows no process {pid}: its memory cannot be watched")

    def read(self) -> int:
        """Bytes that are resident."""
        return sum(_read_resident(pid) for pid in find_processes(self._pid))

    def expect_small(self, before: int) -> None:
        """What was resident before has grown little.

        Raises:
            CheckFailed: it has not.
        """
        grown = self.read() - before
        expect(grown < MAX_GROWTH_BYTES, f"{grown / 2**20:.0f} MiB more memory than before")


def find_processes(pid: int) -> list[int]:
    """Return a process and all below it; those that end meanwhile are left out."""
    found = [pid]
    for parent in found:
        try:
            tasks = list(Path(f"/proc/{parent}/task").iterdir())
            found += [int(child) for task in tasks for child in _read_children(task)]
        except OSError:
            continue
    return found


def _read_children(task: Path) -> list[str]:
    try:
        return (task / "children").read_text().split()
    except OSError:
        return []


def _read_resident(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))
