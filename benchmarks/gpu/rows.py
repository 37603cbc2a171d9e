"""Rows of a results file: each runs once, whatever stopped the program before."""

from __future__ import annotations

import json
import re
import signal
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.machine import read_commit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

ROW_LIMIT_S = 600
# Reading alone can be a little faster than the copy that sets the limit; more is a wrong count.
_MOST_OF_LIMIT = 1.05


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement: its name in the file, and what returns its numbers."""

    name: str
    run: Callable[[], dict[str, Any]]


def name_file(folder: Path, device: str) -> Path:
    """Return the results file of a device and a commit."""
    slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    return folder / f"gpu-{slug}-{read_commit() or 'no-commit'}.jsonl"


def run_rows(
    path: Path, rows: Iterable[Row], about: dict[str, Any], limit_s: int = ROW_LIMIT_S
) -> int:
    """Run the rows that the file lacks, and write a line for each; return how many failed.

    A row that fails is a line with its error; the next run tries it again.
    """
    done = _read_done(path)
    num_failed = 0
    for row in rows:
        if row.name in done:
            continue
        line = {"kind": "gpu", "row": row.name, **about, **_run(row, limit_s)}
        if line.get("of_limit", 0) > _MOST_OF_LIMIT and not about.get("tiny"):
            line["error"] = "faster than the device can be: a count or the clock is wrong"
        num_failed += "error" in line
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)
    return num_failed


def _read_done(path: Path) -> set[str]:
    if not path.exists():
        return set()
    lines = [json.loads(text) for text in path.read_text().splitlines() if text.strip()]
    return {line["row"] for line in lines if "error" not in line}


def _run(row: Row, limit_s: int) -> dict[str, Any]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"it took more than {limit_s} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(limit_s)
    try:
        return row.run()
    except Exception as error:  # noqa: BLE001 - a row's fault must not take the others along
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
