"""Which row of the device's state each running sequence has, and what a step must be told of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmplug.engine.device_state import StateLayout
    from llmplug.engine.scheduler import Schedule
    from llmplug.engine.sequence import Sequence


class RowTable:
    """The host's side of the state: knows what the device has, and finds what it lacks."""

    def __init__(self, layout: StateLayout) -> None:
        self._layout = layout
        self._owners: list[Sequence | None] = [None] * layout.num_rows
        self._num_pages = [0] * layout.num_rows  # that the device knows of each row
        self._decodes = [layout.num_rows] * layout.num_rows  # as the device has them
        self._free = list(range(layout.num_rows))

    def find_changes(self, schedule: Schedule) -> dict[int, int]:
        """Return place -> value of all that the device must learn before a step.

        A sequence that runs anew is written down whole; of others the pages that they outgrew, and
        the token of a decode that the host chose.
        """
        changes: dict[int, int] = {}
        for sequence in schedule.started:
            if sequence.is_running:  # it may have had to give way again
                self._start(sequence, changes)
        for sequence in schedule.grown:
            if sequence.is_running:
                self._add_pages(sequence, changes)
        for sequence in schedule.decodes:
            if not sequence.num_pending:
                place = self._layout.find_id(sequence.row)
                changes[place] = sequence.token_ids[sequence.num_computed]
        return changes

    def set_decodes(self, rows: list[int], changes: dict[int, int]) -> None:
        """Add what the device must learn to take `rows` as those of a decode step."""
        for index, row in enumerate(rows):
            if self._decodes[index] != row:
                self._decodes[index] = row
                changes[self._layout.find_decode(index)] = row

    def _start(self, sequence: Sequence, changes: dict[int, int]) -> None:
        if not (0 <= sequence.row < len(self._owners)) or (
            self._owners[sequence.row] is not sequence
        ):
            sequence.row = self._take_row()
            self._owners[sequence.row] = sequence
        row, layout = sequence.row, self._layout
        changes[layout.find_length(row)] = sequence.num_computed
        for index in range(len(sequence.pages), self._num_pages[row]):
            changes[layout.find_page(row, index)] = -1
        self._num_pages[row] = 0
        self._add_pages(sequence, changes)

    def _add_pages(self, sequence: Sequence, changes: dict[int, int]) -> None:
        row, pages = sequence.row, sequence.pages
        first = self._layout.find_page(row, 0)
        for index in range(self._num_pages[row], len(pages)):
            changes[first + index] = pages[index]
        self._num_pages[row] = len(pages)

    def _take_row(self) -> int:
        """Return a row that nobody has, or whose owner runs no more."""
        if not self._free:
            for row, owner in enumerate(self._owners):
                if owner is None or not owner.is_running:
                    self._owners[row] = None
                    self._free.append(row)
        return self._free.pop()
