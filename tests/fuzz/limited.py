"""Runs a test in a process of its own that may use so much memory and time and no more."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAX_GROWTH_BYTES = 512 * 2**20
MAX_CPU_S = 60
DEADLINE_S = 240


def run_limited(module: str, name: str, folder: Path) -> None:
    """Call a function of a module of tests with a folder, within the limits.

    Raises:
        AssertionError: it failed, crashed, or was over a limit; the child's words are shown.
    """
    done = subprocess.run(
        [sys.executable, "-c", CHILD, module, name, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, f"{done.returncode}: {done.stdout[-2000:]}{done.stderr[-6000:]}"


CHILD = """
import importlib, sys
from pathlib import Path
sys.path[:0] = [".", "tests"]
module, name, folder = sys.argv[1:]
function = getattr(importlib.import_module(module), name)
from tests.fuzz.limited import limit
limit()
function(Path(folder))
"""


def limit() -> None:
    """Limit what this process may use from now on."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MAX_GROWTH_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_S, MAX_CPU_S))
