"""The forward pass for devices that are far away: the host tells what has changed, and no more.

The twin of `runner.Runner`. Decode steps are padded to a few sizes, so that each can be captured
and launched as a whole; chosen tokens can stay on the device as the next step's input.

Legend: S sequences in this step, B rows of a decode step with its padding, T packed tokens, D model
width.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from llmplug.engine.device_state import DeviceState, StateLayout
from llmplug.engine.graphs import DecodeGraphs
from llmplug.engine.row_table import RowTable
from llmplug.engine.runner import Runner
from llmplug.engine.transfers import send_array

if TYPE_CHECKING:
    from collections.abc import Sequence as SequenceOf

    import torch

    from llmplug.engine.graphs import GraphRunner, Step
    from llmplug.engine.scheduler import Schedule
    from llmplug.engine.sequence import Sequence
    from llmplug.engine.settings import EngineSettings
    from llmplug.ops import KernelTable
    from llmplug.specs import Model, ModelShape


class DeviceRunner(Runner):
    """Owns the caches, and the state that steps are made of on the device."""

    def __init__(
        self,
        model: Model,
        shape: ModelShape,
        ops: KernelTable,
        settings: EngineSettings,
        device: torch.device,
        graphs: GraphRunner,
    ) -> None:
        super().__init__(model, shape, ops, settings, device)
        pages_per_row = -(-settings.context_length // settings.page_size)
        layout = StateLayout(settings.max_sequences, pages_per_row)
        self._rows = RowTable(layout)
        self._state = DeviceState(layout, settings.page_size, device)
        self._graphs = DecodeGraphs(graphs, settings.max_sequences, settings.context_length)
        self._steps: dict[int, Step] = {}  # by rows, padding included
        self._padding_row = settings.max_sequences

    def run(self, schedule: Schedule) -> torch.Tensor:
        """Compute a step's tokens, filling their slots of the caches: hidden_TD.

        Of decodes alone it lasts until the next step.
        """
        changes = self._rows.find_changes(schedule)
        return self._mix(schedule, changes) if schedule.chunks else self._decode(schedule, changes)

    def keep(self, sequences: SequenceOf[Sequence], ids_S: torch.Tensor) -> None:
        """Keep chosen tokens on the device, for the step that computes them."""
        rows = array("q", [sequence.row for sequence in sequences])
        self._state.keep(send_array(rows, self._device), ids_S)

    def find_pending(self, sequences: SequenceOf[Sequence]) -> torch.Tensor | None:
        """Return the tokens that were chosen and are not known on the host yet: ids_S, int64.

        -1 where there is none; None: the host knows all.
        """
        if not any(sequence.num_pending for sequence in sequences):
            return None
        rows = [sequence.row if sequence.num_pending else -1 for sequence in sequences]
        return self._state.find_ids(send_array(array("q", rows), self._device))

    def _decode(self, schedule: Schedule, changes: dict[int, int]) -> torch.Tensor:
        decodes = schedule.decodes
        num_padding = self._graphs.round_rows(len(decodes)) - len(decodes)
        rows = [sequence.row for sequence in decodes] + [self._padding_row] * num_padding
        self._rows.set_decodes(rows, changes)
        self._write(array("q", [*changes, *changes.values()]), len(changes))
        cached_lens = [sequence.num_computed + 1 for sequence in decodes] + [0] * num_padding
        if len(rows) not in self._steps:
            self._steps[len(rows)] = self._make_step(len(rows))
        hidden_BD = self._graphs.run(self._steps[len(rows)], tuple(cached_lens))
        return hidden_BD[: len(decodes)]

    def _make_step(self, num_rows: int) -> Step:
        def compute(cached_lens: tuple[int, ...]) -> torch.Tensor:
            return self._forward(self._state.start_decodes(num_rows, cached_lens))

        return compute

    def _mix(self, schedule: Schedule, changes: dict[int, int]) -> torch.Tensor:
        """Compute a step that has chunks of prompts; its launches are all its own."""
        rows, query_lens, cached_lens, chunk_ids = [], [], [], array("q")
        for sequence, count in schedule:
            end = sequence.num_computed + count
            rows.append(sequence.row)
            query_lens.append(count)
            cached_lens.append(end)
            if count > 1:
                chunk_ids.extend(sequence.token_ids[end - count : end])
        sent = array("q", [*changes, *changes.values(), *rows, *query_lens]) + chunk_ids
        rest = self._write(sent, len(changes))
        num_rows = len(rows)
        batch = self._state.start_mixed(
            rest[:num_rows],
            rest[num_rows : 2 * num_rows],
            rest[2 * num_rows :],
            tuple(query_lens),
            tuple(cached_lens),
        )
        return self._forward(batch)

    def _write(self, sent: array[int], num_changes: int) -> torch.Tensor:
        """Send all a step needs in one go, write the changes down, return what is behind them."""
        received = send_array(sent, self._device)
        if num_changes:
            self._state.write(received[:num_changes], received[num_changes : 2 * num_changes])
        return received[2 * num_changes :]
