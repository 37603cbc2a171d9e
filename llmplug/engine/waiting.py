"""Who waits for a place, and who is next: best priority, least served tenant, earliest arrival."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmplug.engine.fairness import FairShare
    from llmplug.engine.sequence import Sequence


def by_rank(sequence: Sequence) -> tuple[int, int]:
    """Return the key that lists of sequences are sorted by."""
    return sequence.rank


class WaitingQueue:
    """A line by rank for each tenant that has somebody waiting; few, as tenants are API keys."""

    def __init__(self, shares: FairShare) -> None:
        self._shares = shares
        self._lines: dict[str, list[Sequence]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def __iter__(self) -> Iterator[Sequence]:
        for line in self._lines.values():
            yield from line

    @property
    def best_priority(self) -> int | None:
        """Priority of the next; None: nobody waits."""
        return min((line[0].priority for line in self._lines.values()), default=None)

    def add(self, sequence: Sequence) -> None:
        """Put a sequence in its place."""
        insort(self._lines.setdefault(sequence.request.tenant, []), sequence, key=by_rank)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it stands."""
        tenant = sequence.request.tenant
        line = self._lines[tenant]
        del line[bisect_left(line, sequence.rank, key=by_rank)]
        if not line:
            del self._lines[tenant]

    def find_next(self, passed: Mapping[str, int]) -> Sequence | None:
        """Return who is next, behind the first `passed[tenant]` of each line; None: nobody."""
        heads = [
            line[passed.get(tenant, 0)]
            for tenant, line in self._lines.items()
            if passed.get(tenant, 0) < len(line)
        ]
        return min(heads, key=self._order, default=None)

    def _order(self, sequence: Sequence) -> tuple[int, int, int]:
        priority, arrival = sequence.rank
        return priority, self._shares.served(sequence.request.tenant), arrival
