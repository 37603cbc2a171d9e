"""Decode steps that are launched as a whole: which there are, and how one is captured and replayed.

A step is captured for a number of rows and a longest context, both rounded up, and serves all steps
that fit in. It is captured when such a step comes for the second time, by the engine's own thread
between two launches: capturing runs nothing on the device, and costs the host about what a step
costs that is not captured. Sizes that never come twice cost nothing.

What is captured ends with the hidden states. Logits are large, and each graph would keep its own.

Legend: B rows of a decode step, padding included, D model width.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from llmplug.ops import KernelTable

_log = logging.getLogger(__name__)
SMALL_BUCKETS = (1, 2, 4)  # rows; then every eight
BUCKET_ROWS = 8
MIN_CONTEXT = 256  # tokens; then its doubles

# Computes a step of rows with so many tokens in the cache, 0 where a row is padding: hidden_BD,
# which lasts until the next step.
Step = Callable[[tuple[int, ...]], torch.Tensor]


class GraphRunner(Protocol):
    """Makes one launch of a step."""

    def capture(self, step: Step, bounds: tuple[int, ...]) -> Step:
        """Return what repeats `step`, on whatever its tensors then hold; runs nothing.

        Args:
            bounds: at least as many cached tokens of each row as it will ever be repeated for.
        """


class CudaGraphs:
    """Records launches in CUDA graphs.

    They share one pool of memory, as they run one after the other: what one leaves behind is used,
    in the order of the stream, before the next one writes there.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def capture(self, step: Step, bounds: tuple[int, ...]) -> Step:
        """Record the launches of `step`; lengths on the host are not asked for again."""
        # Not `torch.cuda.graph`, which waits for the device and gives its free memory back.
        graph = torch.cuda.CUDAGraph()
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            # Other threads, such as those of grammars, may use the device meanwhile.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                hidden_BD = step(bounds)
            finally:
                graph.capture_end()
        current.wait_stream(self._stream)

        def replay(_: tuple[int, ...]) -> torch.Tensor:
            graph.replay()
            return hidden_BD

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
        return CudaGraphs(device)
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

    def run(self, step: Step, cached_lens: tuple[int, ...]) -> torch.Tensor:
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
