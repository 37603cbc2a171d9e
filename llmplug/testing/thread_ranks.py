"""Ranks of one process, a thread each: what checks of divided models run on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import torch

from llmplug.testing.expect import expect
from llmplug.testing.step_runner import BuiltModel, StepRunner, build_model

if TYPE_CHECKING:
    from llmplug.ops import KernelTable
    from llmplug.specs import Checkpoint, ModelSpec

_T = TypeVar("_T")


class Meeting:
    """Where the threads leave their tensors and wait for each other."""

    def __init__(self, num_ranks: int) -> None:
        self._barrier = threading.Barrier(num_ranks)
        self._left: list[torch.Tensor | None] = [None] * num_ranks

    def exchange(self, rank: int, x: torch.Tensor) -> list[torch.Tensor]:
        """Leave a tensor and take those of all, by rank."""
        self._left[rank] = x
        self._barrier.wait()
        found = [each for each in self._left if each is not None]
        self._barrier.wait()
        return found

    def end(self) -> None:
        """Let nobody wait for a thread that has failed."""
        self._barrier.abort()


@dataclass(frozen=True, slots=True)
class ThreadCollective:
    """One thread's end; implements `llmplug.ops.collective.Collective`."""

    rank: int
    num_ranks: int
    meeting: Meeting

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        """Sum in the order of the ranks, so that all get the same to the bit."""
        return torch.stack(self.meeting.exchange(self.rank, x)).sum(0)

    def all_gather(self, x_TO: torch.Tensor, widths: Sequence[int]) -> torch.Tensor:
        """Join along the last dimension."""
        found = self.meeting.exchange(self.rank, x_TO)
        if [part.shape[-1] for part in found] != list(widths):
            raise ValueError(f"parts of {[part.shape[-1] for part in found]}, not {list(widths)}")
        return torch.cat(found, -1)


class RankedStepRunner:
    """A `StepRunner` of a model that ranks compute together, each with pages of its own."""

    def __init__(self, ranks: Sequence[BuiltModel], meeting: Meeting, num_sequences: int) -> None:
        self._runners = [StepRunner(built, num_sequences) for built in ranks]
        self._meeting = meeting

    @property
    def num_cached(self) -> list[int]:
        """Tokens of each sequence so far."""
        return self._runners[0].num_cached

    def share_prefix(self, source: int, target: int, num_tokens: int) -> int:
        """As `StepRunner.share_prefix`, on every rank."""
        shared = [each.share_prefix(source, target, num_tokens) for each in self._runners]
        return shared[0]

    def step(self, chunks: Mapping[int, Sequence[int]]) -> dict[int, torch.Tensor]:
        """Run new tokens of some sequences; return logits_TV of each.

        Raises:
            AssertionError: ranks have other logits than the first.
        """
        steps = [partial(each.step, chunks) for each in self._runners]
        first, *others = run_together(steps, self._meeting)
        for rank, found in enumerate(others, start=1):
            for sequence, logits_TV in first.items():
                expect(
                    torch.equal(found[sequence], logits_TV),
                    f"rank {rank} has other logits than rank 0, and would choose other tokens: "
                    "what every rank must have whole is summed or gathered",
                )
        return first


def build_ranks(
    spec: ModelSpec, checkpoint: Checkpoint, num_ranks: int, *, ops: KernelTable | None = None
) -> Callable[[int], RankedStepRunner]:
    """Build each rank's part of a model; return what makes a runner for a number of sequences."""
    return partial(RankedStepRunner, *build_parts(spec, checkpoint, num_ranks, ops=ops))


def build_parts(
    spec: ModelSpec, checkpoint: Checkpoint, num_ranks: int, *, ops: KernelTable | None = None
) -> tuple[list[BuiltModel], Meeting]:
    """Build each rank's part of a model, and where their threads meet."""
    meeting = Meeting(num_ranks)
    ranks = [
        build_model(
            spec, checkpoint, ops=ops, collective=ThreadCollective(rank, num_ranks, meeting)
        )
        for rank in range(num_ranks)
    ]
    return ranks, meeting


def run_together(calls: Sequence[Callable[[], _T]], meeting: Meeting) -> list[_T]:
    """Make each rank's call in a thread of its own; return what they return, by rank."""

    def run(call: Callable[[], _T]) -> _T:
        try:
            return call()
        except BaseException:
            meeting.end()
            raise

    with ThreadPoolExecutor(len(calls)) as pool:
        futures = [pool.submit(run, call) for call in calls]
    return _collect(futures)


def _collect(futures: Sequence[Future[_T]]) -> list[_T]:
    """Return all results, or raise what went wrong first; the others only missed it."""
    errors = [error for each in futures if (error := each.exception()) is not None]
    own = [error for error in errors if not isinstance(error, threading.BrokenBarrierError)]
    for error in (*own, *errors):
        raise error
    return [each.result() for each in futures]
