"""What engines count: over the lives of their processes, and several of them together."""

from __future__ import annotations

import msgspec

from llmplug.types import EngineStats

# What is so at the moment; all else of EngineStats only grows.
GAUGES = ("num_running", "num_waiting", "num_pages_used", "num_pages")


class CountedStats:
    """The numbers of one engine, whose processes may die; to be read from any thread."""

    def __init__(self) -> None:
        # Of the processes that ended, and of this one: in one value, or a reader could count one
        # of them twice while it ends.
        self._counted: tuple[EngineStats, EngineStats | None] = (EngineStats(), None)

    @property
    def now(self) -> EngineStats | None:
        """Of this process, after its last step; None: it has taken none."""
        return self._counted[1]

    @property
    def total(self) -> EngineStats:
        """Gauges as of now, and counters of all processes: they never go back."""
        ended, now = self._counted
        return ended if now is None else add_stats(ended, now)

    def take(self, stats: EngineStats) -> None:
        """A step has ended."""
        self._counted = self._counted[0], stats

    def end(self) -> None:
        """The process has ended; what it held is free."""
        self._counted = msgspec.structs.replace(self.total, **dict.fromkeys(GAUGES, 0)), None


def add_stats(*stats: EngineStats) -> EngineStats:
    """Add field by field."""
    names = EngineStats.__struct_fields__
    return EngineStats(**{name: sum(getattr(each, name) for each in stats) for name in names})
