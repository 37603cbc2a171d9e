"""Rank 0's runner: the other ranks hear of each call before it is made, and make the same.

Legend: T packed tokens, S rows to choose a token for, D model width, V vocabulary.
"""

from __future__ import annotations

from array import array
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING

from llmplug.engine.device_runner import DeviceRunner
from llmplug.engine.ranks.messages import ComputeLogits, KeepTokens, ReadTexts, RunStep
from llmplug.engine.runner import RunnerLost

if TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Sequence as SequenceOf

    import torch

    from llmplug.engine.pooling import TextReader
    from llmplug.engine.ranks.collective import GroupCollective
    from llmplug.engine.ranks.group import RankGroup
    from llmplug.engine.runner import Runner
    from llmplug.engine.scheduler import Schedule
    from llmplug.engine.sequence import Sequence
    from llmplug.ops import TextBatch


class LeadingRunner:
    """Stands where a runner stands, of either kind; the only way to the model where ranks share it.

    A call that fails is the engine's end: nobody knows how far the other ranks came.
    """

    def __init__(self, runner: Runner, group: RankGroup, collective: GroupCollective) -> None:
        self._runner = runner
        self._group = group
        self._collective = collective
        self._hidden_TD: torch.Tensor | None = None  # of the last step, which the others hold too
        self._rows: list[int] = []  # of that step, whose logits all ranks compute at once
        self._logits_SV: torch.Tensor | None = None  # theirs; None: they were taken

    @property
    def cache_bytes(self) -> int:
        """Bytes that this rank's caches hold."""
        return self._runner.cache_bytes

    def run(self, schedule: Schedule) -> torch.Tensor:
        """Compute a step's tokens, filling their slots of the caches: hidden_TD."""
        step = self._runner.pack(schedule)
        self._rows = find_rows(schedule)
        with _leading():
            self._group.tell(RunStep(step, tuple(self._rows)))
            self._hidden_TD = self._runner.run_step(step)
            self._logits_SV = None
            if self._rows:
                self._logits_SV = self._runner.compute_logits(self._hidden_TD, self._rows)
        return self._hidden_TD

    def compute_logits(self, hidden_TD: torch.Tensor, rows: list[int]) -> torch.Tensor:
        """Compute float32 logits_SV of some rows of the last step; the caller may edit them."""
        if hidden_TD is not self._hidden_TD:
            raise ValueError("the other ranks hold the hidden states of the last step alone")
        logits_SV, is_known = self._logits_SV, rows == self._rows
        if logits_SV is not None and is_known:
            self._logits_SV = None
            return logits_SV
        with _leading():
            self._group.tell(ComputeLogits(tuple(rows)))
            return self._runner.compute_logits(hidden_TD, rows)

    def keep(self, sequences: SequenceOf[Sequence], ids_S: torch.Tensor) -> None:
        """Keep chosen tokens on the devices of all ranks, for the step that computes them."""
        runner = _as_ahead(self._runner)
        with _leading():
            self._group.tell(KeepTokens(tuple(sequence.row for sequence in sequences)))
            runner.keep(sequences, self._collective.broadcast(ids_S.long()))

    def find_pending(self, sequences: SequenceOf[Sequence]) -> torch.Tensor | None:
        """Return the tokens that were chosen and are not known on the host yet: ids_S, int64."""
        return _as_ahead(self._runner).find_pending(sequences)


class LeadingReader:
    """Stands where a reader of whole texts stands."""

    def __init__(self, reader: TextReader, group: RankGroup) -> None:
        self._reader = reader
        self._group = group

    def encode(self, batch: TextBatch) -> torch.Tensor:
        """Run packed texts through all layers; return hidden_TD, in their order."""
        lengths = tuple(end - start for start, end in pairwise(batch.starts))
        token_ids, type_ids = (_to_bytes(ids) for ids in (batch.token_ids_T, batch.type_ids_T))
        with _leading():
            self._group.tell(ReadTexts(lengths, token_ids, type_ids))
            return self._reader.encode(batch)

    def classify(self, pooled_ND: torch.Tensor) -> torch.Tensor:
        """Score each text by the model's head, which every rank has whole."""
        scores_NL: torch.Tensor = self._reader.classify(pooled_ND)  # type: ignore[attr-defined]
        return scores_NL


def find_rows(schedule: Schedule) -> list[int]:
    """Return the rows of a step's hidden states that a token is chosen from."""
    rows, end = [], 0
    for sequence, count in schedule:
        end += count
        if count == sequence.num_missing:
            rows.append(end - 1)
    return rows


def _to_bytes(ids_T: torch.Tensor | None) -> bytes:
    return b"" if ids_T is None else array("q", ids_T.tolist()).tobytes()


def _as_ahead(runner: Runner) -> DeviceRunner:
    if not isinstance(runner, DeviceRunner):
        raise TypeError("tokens are kept where steps are launched ahead")
    return runner


@contextmanager
def _leading() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise RunnerLost(f"rank 0 failed in the middle of a step: {error}") from error
