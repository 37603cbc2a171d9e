"""What the command line writes: text and tables on stdout, progress on stderr."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType
    from typing import Self

    from rich.progress import Progress as Bars
    from rich.progress import TaskID

# More than this is surely bytes, not layers or files.
BYTES_FROM = 100_000
STEPS = 4  # lines a stage without a terminal: at each quarter


def write(text: str) -> None:
    """Write a text and a newline on stdout."""
    sys.stdout.write(text + "\n")


def write_json(value: Any) -> None:
    """Write a value as indented JSON on stdout."""
    write(json.dumps(value, indent=2, ensure_ascii=False))


def format_table(rows: Iterable[Sequence[str]]) -> list[str]:
    """Align the columns of `rows`, the first of which is the heading; never cut, never wrapped."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def format_amount(done: int, total: int) -> str:
    """Write `12.3/98.1 MB`, or `3/30` for what is too few to be bytes; total 0: unknown."""
    if max(done, total) < BYTES_FROM:
        return f"{done}/{total}" if total else str(done)
    of = f"/{total / 1e6:.1f}" if total else ""
    return f"{done / 1e6:.1f}{of} MB"


class TerminalProgress:
    """Shows `llmplug.specs.Progress` on stderr: bars on a terminal, else a line at each quarter.

    Bars appear with the first report and vanish from the screen's control when every stage is
    finished, or at `close`; a `with` block closes.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}
        self._quarters: dict[str, int] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Say that `done` of `total` bytes (or items) of `stage` are finished; total 0: unknown."""
        if self._stream.isatty():
            self._draw(stage, done, total)
        else:
            self._print(stage, done, total)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the screen back; may be called twice."""
        if self._bars is not None:
            self._bars.stop()
        self._bars = None
        self._tasks.clear()

    def _draw(self, stage: str, done: int, total: int) -> None:
        if self._bars is None:
            self._bars = _make_bars(self._stream)
            self._bars.start()
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, amount="")
        task, amount = self._tasks[stage], format_amount(done, total)
        self._bars.update(task, completed=done, total=total or None, amount=amount)
        if self._bars.finished:
            self.close()

    def _print(self, stage: str, done: int, total: int) -> None:
        # Without a total, a line whenever the amount has doubled.
        quarter = done * STEPS // total if total else done.bit_length()
        is_first = stage not in self._quarters
        if not is_first and quarter <= self._quarters[stage]:
            return
        self._quarters[stage] = quarter
        share = f" {done * 100 // total} %" if total else ""
        self._stream.write(f"{stage}:{share} ({format_amount(done, total)})\n")
        self._stream.flush()


def _make_bars(stream: TextIO) -> Bars:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[amount]}"),
        TimeRemainingColumn(),
        console=Console(file=stream),
    )
