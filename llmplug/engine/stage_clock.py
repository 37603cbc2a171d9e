"""How long the stages of an engine's start take, for the line in the log."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmplug.specs import Progress


class StageClock:
    """Times one stage after the other; a stage that is named twice has the sum."""

    def __init__(self, stage: str) -> None:
        """Begin the first stage."""
        self._seconds: dict[str, float] = {}
        self._stage = stage
        self._began = time.monotonic()

    def begin(self, stage: str) -> None:
        """End the stage that runs, and begin another."""
        now = time.monotonic()
        self._seconds[self._stage] = self._seconds.get(self._stage, 0.0) + now - self._began
        self._stage, self._began = stage, now

    def watch(self, progress: Progress) -> Progress:
        """Return a `progress` that begins each stage which is reported for the first time."""

        def report(stage: str, done: int, total: int) -> None:
            if stage != self._stage:
                self.begin(stage)
            progress(stage, done, total)

        return report

    def end(self) -> dict[str, float]:
        """End the stage that runs; return seconds by stage, in the order in which they began."""
        self.begin("")
        return self._seconds
