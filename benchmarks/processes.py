"""What the processes of a server take: memory and processor time, read from /proc."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
# How `llmplug serve` starts the process that owns a model.
_ENGINE = ["-m", "llmplug", "engine"]


def list_tree(pid: int) -> list[int]:
    """Return a process and all its descendants; empty when it is gone."""
    return [member for member, _ in list_roles(pid)]


def list_roles(pid: int, role: str = "server") -> Iterator[tuple[int, str]]:
    """Yield a process and all its descendants with their roles.

    Our engine processes, and what they start, are `engine`; all others are `server`.
    """
    try:
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except (FileNotFoundError, ProcessLookupError):
        return
    command = _read(pid, "cmdline").split("\0")
    if any(command[at : at + len(_ENGINE)] == _ENGINE for at in range(len(command))):
        role = "engine"
    yield pid, role
    for child in children:
        yield from list_roles(child, role)


def read_rss(pid: int) -> int:
    """Return the resident bytes of one process, 0 when it is gone."""
    lines = _read(pid, "status").splitlines()
    sizes = [line.split()[1] for line in lines if line.startswith("VmRSS:")]
    return int(sizes[0]) * 1024 if sizes else 0  # a zombie has none


def read_cpu_s(pid: int) -> float:
    """Return the user and system time of a process, and of its children that ended; 0 if gone."""
    after_name = _read(pid, "stat").rpartition(")")[2].split()
    # utime, stime, cutime, cstime: fields 14 to 17 of proc(5), of which the name is the second
    return sum(int(ticks) for ticks in after_name[11:15]) * _TICK_S


def read_cpu_by_role(pid: int) -> dict[str, float]:
    """Return the processor seconds that a tree has taken so far, by role."""
    seconds: dict[str, float] = defaultdict(float)
    for member, role in list_roles(pid):
        seconds[role] += read_cpu_s(member)
    return dict(seconds)


def read_busy_s() -> float:
    """Return the seconds that all cores were busy since the machine started, whoever with.

    Time that a virtual machine's host gave to its neighbours is counted too.
    """
    user, nice, system, _, _, *others = (
        Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return sum(int(ticks) for ticks in (user, nice, system, *others)) * _TICK_S


def read_harness_s() -> float:
    """Return the processor seconds of this process, and of its children that ended."""
    return sum(os.times()[:4])


def _read(pid: int, name: str) -> str:
    """Return a file of /proc/PID, empty when the process is gone."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
