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
from llmplug.engine.steps import DeviceStep
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

    def pack(self, schedule: Schedule) -> DeviceStep:
        """Write down what has changed since the last step."""
        changes = self._rows.find_changes(schedule)
        pack = _pack_mixed if schedule.chunks else self._pack_decodes
        return pack(schedule, changes)

    def run_step(self, step: DeviceStep) -> torch.Tensor:
        """Compute what `pack` wrote down, here or in another process whose state is the same.

        What it returns of decodes alone lasts until the next step.
        """
        received = send_array(array("q", step.sent), self._device)
        changes = received[: 2 * step.num_changes]
        if step.num_changes:
            self._state.write(changes[: step.num_changes], changes[step.num_changes :])
        if step.query_lens:
            return self._mix(step, received[len(changes) :])
        return self._decode(step)

    def keep(self, sequences: SequenceOf[Sequence], ids_S: torch.Tensor) -> None:
        """Keep chosen tokens on the device, for the step that computes them."""
        self.keep_rows([sequence.row for sequence in sequences], ids_S)

    def keep_rows(self, rows: SequenceOf[int], ids_S: torch.Tensor) -> None:
        """Keep chosen tokens in these rows of the state."""
        self._state.keep(send_array(array("q", rows), self._device), ids_S)

    def find_pending(self, sequences: SequenceOf[Sequence]) -> torch.Tensor | None:
        """Return the tokens that were chosen and are not known on the host yet: ids_S, int64.

        -1 where there is none; None: the host knows all.
        """
        if not any(sequence.num_pending for sequence in sequences):
            return None
        rows = [sequence.row if sequence.num_pending else -1 for sequence in sequences]
        return self._state.find_ids(send_array(array("q", rows), self._device))

    def _pack_decodes(self, schedule: Schedule, changes: dict[int, int]) -> DeviceStep:
        decodes = schedule.decodes
        num_padding = self._graphs.round_rows(len(decodes)) - len(decodes)
        rows = [sequence.row for sequence in decodes] + [self._padding_row] * num_padding
        self._rows.set_decodes(rows, changes)
        lens = (*(sequence.num_computed + 1 for sequence in decodes), *(0,) * num_padding)
        sent = array("q", [*changes, *changes.values()])
        return DeviceStep(len(decodes), len(changes), (), lens, sent.tobytes())

    def _decode(self, step: DeviceStep) -> torch.Tensor:
        num_rows = len(step.cached_lens)
        if num_rows not in self._steps:
            self._steps[num_rows] = self._make_step(num_rows)
        hidden_BD = self._graphs.run(self._steps[num_rows], step.cached_lens)
        return hidden_BD[: step.num_sequences]

    def _make_step(self, num_rows: int) -> Step:
        def compute(cached_lens: tuple[int, ...]) -> torch.Tensor:
            return self._forward(self._state.start_decodes(num_rows, cached_lens))

        return compute

    def _mix(self, step: DeviceStep, received: torch.Tensor) -> torch.Tensor:
        """Compute a step that has chunks of prompts; its launches are all its own."""
        num_rows = step.num_sequences
        batch = self._state.start_mixed(
            received[:num_rows],
            received[num_rows : 2 * num_rows],
            received[2 * num_rows :],
            step.query_lens,
            step.cached_lens,
        )
        return self._forward(batch)


def _pack_mixed(schedule: Schedule, changes: dict[int, int]) -> DeviceStep:
    rows, query_lens, cached_lens, chunk_ids = [], [], [], array("q")
    for sequence, count in schedule:
        end = sequence.num_computed + count
        rows.append(sequence.row)
        query_lens.append(count)
        cached_lens.append(end)
        if count > 1:
            chunk_ids.extend(sequence.token_ids[end - count : end])
    sent = array("q", [*changes, *changes.values(), *rows, *query_lens]) + chunk_ids
    return DeviceStep(
        len(rows), len(changes), tuple(query_lens), tuple(cached_lens), sent.tobytes()
    )


def make_runner(
    model: Model,
    shape: ModelShape,
    ops: KernelTable,
    settings: EngineSettings,
    device: torch.device,
    graphs: GraphRunner | None,
) -> Runner:
    """Make a runner of the kind that suits the device; without graphs the host lays steps out."""
    if graphs is None:
        return Runner(model, shape, ops, settings, device)
    return DeviceRunner(model, shape, ops, settings, device, graphs)
