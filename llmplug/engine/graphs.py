"""Decode steps that are launched as a whole: which there are, and how one is captured and replayed.

A step is captured for a number of rows and a longest context, both rounded up, and serves all steps
that fit in. It is captured when such a step comes for the second time, by the engine's own thread
between two launches: capturing runs nothing on the device, and costs the host about what a step
costs that is not captured. Sizes that never come twice cost nothing.

Legend: B rows of a decode step, padding included.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

    from llmplug.ops import KernelTable

_log = logging.getLogger(__name__)
SMALL_BUCKETS = (1, 2, 4)  # rows; then every eight
BUCKET_ROWS = 8
MIN_CONTEXT = 256  # tokens; then its doubles


@dataclass(frozen=True, slots=True)
class Computed:
    """What a decode step gives, row by row; where it is replayed, always in the same place."""

    hidden_BD: torch.Tensor
    logits_BV: torch.Tensor


# Computes a step of rows with so many tokens in the cache, 0 where a row is padding.
Step = Callable[[tuple[int, ...]], Computed]


class GraphRunner(Protocol):
    """Makes one launch of a step."""

    def capture(self, step: Step, bounds: tuple[int, ...]) -> Step:
        """Return what repeats `step`, on whatever its tensors then hold; runs nothing.

        Args:
            bounds: at least as many cached tokens of each row as it will ever be repeated for.
        """


class CudaGraphs:
    """Records launches in a CUDA graph; all graphs share one pool of memory.

    The graphs run one after the other, so that what one leaves behind is read before the next one
    writes there: logits are sampled, in the order of the stream, before the next step.
    """

    def __init__(self) -> None:
        self._pool: Any = None

    def capture(self, step: Step, bounds: tuple[int, ...]) -> Step:
        """Record the launches of `step`; lengths on the host are not asked for again."""
        import torch

        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            computed = step(bounds)
        if self._pool is None:
            self._pool = graph.pool()

        def replay(_: tuple[int, ...]) -> Computed:
            graph.replay()
            return computed

        return replay


class EagerGraphs:
    """The slow twin: repeats a step by running it, as on devices without graphs."""

    def capture(self, step: Step, bounds: tuple[int, ...]) -> Step:
        """Return `step`."""
        return step


def choose_graphs(device: torch.device, ops: KernelTable) -> GraphRunner:
    """Return what launches decode steps as a whole, where device and kernels allow it."""
    # A stranger's attention need not know the attribute.
    if device.type == "cuda" and getattr(ops.attention, "is_replayable", False):
        return CudaGraphs()
    return EagerGraphs()


class DecodeGraphs:
    """Runs decode steps, captured from the second of a size on."""

    def __init__(self, graphs: GraphRunner, max_rows: int, context_length: int) -> None:
        self._graphs: GraphRunner | None = graphs
        self._max_rows = max_rows
        self._context_length = context_length
        self._steps: dict[tuple[int, int], Step | None] = {}  # None: came once

    def round_rows(self, num_rows: int) -> int:
        """Return how many rows a step of `num_rows` has with its padding."""
        for bucket in SMALL_BUCKETS:
            if num_rows <= bucket:
                return min(bucket, self._max_rows)
        return min(-(-num_rows // BUCKET_ROWS) * BUCKET_ROWS, self._max_rows)

    def round_context(self, num_tokens: int) -> int:
        """Return the longest context of the steps that one graph serves."""
        bound = MIN_CONTEXT
        while bound < num_tokens:
            bound *= 2
        return min(bound, self._context_length)

    def run(self, step: Step, cached_lens: tuple[int, ...]) -> Computed:
        """Run a step of so many tokens in the cache of each row; captured if it was seen before.

        Args:
            step: the same for every call with as many rows.
        """
        key = (len(cached_lens), self.round_context(max(cached_lens)))
        captured = self._steps.get(key)
        if captured is None and key in self._steps:
            captured = self._capture(step, *key)
        if captured is not None:
            return captured(cached_lens)
        if self._graphs is not None:
            self._steps[key] = None
        return step(cached_lens)

    def _capture(self, step: Step, num_rows: int, num_tokens: int) -> Step | None:
        """Capture a step; after one that cannot be captured, none ever is."""
        if self._graphs is None:
            return None
        try:
            captured = self._graphs.capture(step, (num_tokens,) * num_rows)
        except Exception:  # noqa: BLE001 - of a plugin's kernel; the step runs as it did before
            _log.warning("steps cannot be captured; they are launched op by op", exc_info=True)
            self._graphs = None
            return None
        self._steps[num_rows, num_tokens] = captured
        return captured
