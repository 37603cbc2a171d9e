"""The forward pass for devices that are far away: the host tells what has changed, and no more.

The twin of `runner.Runner`. Decode steps are padded to a few sizes, so that each can be captured
and launched as a whole; chosen tokens can stay on the device as the next step's input.

Legend: S sequences in this step, B rows of a decode step with its padding, T packed tokens, D model
width, V vocabulary.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from llmplug.engine.device_state import DeviceState, StateLayout
from llmplug.engine.graphs import Computed, DecodeGraphs
from llmplug.engine.row_table import RowTable
from llmplug.engine.runner import Runner
from llmplug.engine.transfers import send

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
        self._ready: Computed | None = None  # logits that nobody has asked for yet

    def run(self, schedule: Schedule) -> torch.Tensor:
        """Compute a step's tokens, filling their slots of the caches: hidden_TD."""
        self._ready = None
        changes = self._rows.find_changes(schedule)
        return self._mix(schedule, changes) if schedule.chunks else self._decode(schedule, changes)

    def compute_logits(self, hidden_TD: torch.Tensor, rows: list[int]) -> torch.Tensor:
        """Compute float32 logits_SV of some rows of hidden_TD; the caller may edit them."""
        ready, self._ready = self._ready, None
        if ready is not None and hidden_TD is ready.hidden_BD and len(rows) == len(hidden_TD):
            return ready.logits_BV
        return super().compute_logits(hidden_TD, rows)

    def keep(self, sequences: SequenceOf[Sequence], ids_S: torch.Tensor) -> None:
        """Keep chosen tokens on the device, for the step that computes them."""
        rows = array("q", [sequence.row for sequence in sequences])
        self._state.keep(send(rows, self._device), ids_S)

    def _decode(self, schedule: Schedule, changes: dict[int, int]) -> torch.Tensor:
        decodes = schedule.decodes
        num_padding = self._graphs.round_rows(len(decodes)) - len(decodes)
        rows = [sequence.row for sequence in decodes] + [self._padding_row] * num_padding
        self._rows.set_decodes(rows, changes)
        self._write(array("q", [*changes, *changes.values()]), len(changes))
        cached_lens = [sequence.num_computed + 1 for sequence in decodes] + [0] * num_padding
        step = self._steps.setdefault(len(rows), self._make_step(len(rows)))
        computed = self._graphs.run(step, tuple(cached_lens))
        self._ready = Computed(
            computed.hidden_BD[: len(decodes)], computed.logits_BV[: len(decodes)]
        )
        return self._ready.hidden_BD

    def _make_step(self, num_rows: int) -> Step:
        def compute(cached_lens: tuple[int, ...]) -> Computed:
            batch = self._state.start_decodes(num_rows, cached_lens)
            hidden_BD = self._model.forward(
                batch.token_ids_T, batch.positions_T, self._caches, batch.attention
            )
            return Computed(hidden_BD, self._model.compute_logits(hidden_BD))

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
        return self._model.forward(
            batch.token_ids_T, batch.positions_T, self._caches, batch.attention
        )

    def _write(self, sent: array[int], num_changes: int) -> torch.Tensor:
        """Send all a step needs in one go, write the changes down, return what is behind them."""
        received = send(sent, self._device)
        if num_changes:
            self._state.write(received[:num_changes], received[num_changes : 2 * num_changes])
        return received[2 * num_changes :]
