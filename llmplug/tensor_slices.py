"""A part of a tensor that is still in its file, along one dimension."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch

    from llmplug.specs import LazyTensor

_PLAIN_FORMATS = frozenset({"F64", "F32", "F16", "BF16"})


@runtime_checkable
class SliceableTensor(Protocol):
    """A `LazyTensor` of which a part can be read without the rest."""

    def slice(self, dimension: int, start: int, end: int) -> LazyTensor:
        """Return the part from `start` up to `end` of a dimension, still in its file.

        Raises:
            CheckpointError, KernelInputError: it would cut through numbers that share a scale.
        """


def slice_tensor(tensor: LazyTensor, dimension: int, start: int, end: int) -> LazyTensor:
    """Return a part of any lazy tensor; one that is no `SliceableTensor` is read whole and cut."""
    if (start, end) == (0, tensor.shape[dimension]):
        return tensor
    if isinstance(tensor, SliceableTensor):
        return tensor.slice(dimension, start, end)
    return _CutTensor(tensor, dimension, start, end)


@dataclass(frozen=True, slots=True)
class _CutTensor:
    """A part of a tensor that can only be read whole."""

    source: LazyTensor
    dimension: int
    start: int
    end: int

    @property
    def shape(self) -> tuple[int, ...]:
        shape = list(self.source.shape)
        shape[self.dimension] = self.end - self.start
        return tuple(shape)

    @property
    def format(self) -> str:
        """As stored; blocks of which columns are cut come dequantised."""
        is_stored = self.dimension == 0 or self.source.format in _PLAIN_FORMATS
        return self.source.format if is_stored else "F32"

    @property
    def num_bytes(self) -> int:
        if self.format != self.source.format:
            return 4 * math.prod(self.shape)
        return self.source.num_bytes * (self.end - self.start) // self.source.shape[self.dimension]

    def load(self) -> torch.Tensor:
        # A copy, as a view would keep the rest in memory.
        return self.source.load().narrow(self.dimension, self.start, self.end - self.start).clone()

    def raw(self) -> torch.Tensor:
        import torch

        if self.dimension == 0:
            rows = self.source.raw()
            per_row = len(rows) // self.source.shape[0]
            return rows[self.start * per_row : self.end * per_row]
        return self.load().contiguous().view(torch.uint8).flatten(1)
