"""Free parameters of kernels: what a kernel declares of them, and what its launcher asks.

Block sizes, warps and stages are tried by `llmplug tune` (`autotune.py`), on the machine that is to
serve, and written into a table (`tuning_table.py`). While requests run nothing is tried: a launcher
asks its `Tuning`, and where that has nothing, it takes its reasoned default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

Sizes = Mapping[str, int]  # a value for each free parameter: {"BLOCK_F": 1024, "num_warps": 4}
Shape = tuple[int | str, ...]  # what the best sizes depend on, beside the dtype

# Numbers of rows whose sizes are told apart; a launcher takes the least one that is not less.
ROW_BUCKETS = (16, 64, 256, 2048)


def bucket_rows(num_rows: int) -> int:
    """Return the bucket of so many rows; what is beyond the last one belongs to it."""
    return next((bucket for bucket in ROW_BUCKETS if num_rows <= bucket), ROW_BUCKETS[-1])


class Tuning(Protocol):
    """What a launcher asks for sizes."""

    def find_sizes(self, tunable: str, dtype: torch.dtype, shape: Shape, default: Sizes) -> Sizes:
        """Return the sizes that were found best for such a call, else the default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSizes:
    """The sizes of a model, as far as the time of kernels depends on them.

    Attributes:
        heads: of each kind of layer: (query heads, key/value heads, width of a head).
        weights: of each kind of linear layer, joined as the model joins it: (outputs, inputs).
        formats: how weights are kept that are not dense, `int8` or `GPTQ`, and how many inputs
            share a scale; 0: as the format has it.
    """

    width: int
    ffn_width: int
    heads: tuple[tuple[int, int, int], ...]
    weights: tuple[tuple[int, int], ...]
    vocab_size: int
    formats: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A call of a size that models have; it is timed.

    Attributes:
        prepare: kernel of the op -> the call, whose inputs are made, each time the same.
        num_bytes: that it must read and write at the least.
        num_flops: that it computes.
    """

    prepare: Callable[[Any], Callable[[], object]]
    num_bytes: float
    num_flops: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tunable:
    """The free parameters of one kernel.

    The shapes that its launcher asks with say what the sizes may depend on. Unless `is_exact`, they
    must not say how many rows there are: with other sizes sums run in another order, and a row's
    result would depend on how many there are beside it.

    Attributes:
        name: what the launcher asks for; unique within the kernel's name.
        compiler: who turns it into a program, and which version: `triton 3.6.0`.
        source: () -> a hash of the kernel's source and of all that it calls.
        shape_names: what the numbers of a shape are.
        candidates: sizes to try, beside the default.
        is_exact: in each workload a candidate must give, to the bit, what the default gives.
        workloads: (sizes of a model, device, dtype) -> what is timed. Those that ask for one shape
            are one choice: the sizes that are best over all of them.
        compare: (kernel, device, dtype) -> pairs (got, expected), where the op's own examples do
            not reach the kernel.
    """

    name: str
    compiler: str
    source: Callable[[], str]
    shape_names: tuple[str, ...]
    candidates: tuple[Sizes, ...]
    is_exact: bool
    workloads: Callable[[ModelSizes, torch.device, torch.dtype], Sequence[Workload]]
    compare: (
        Callable[[Any, torch.device, torch.dtype], Sequence[tuple[torch.Tensor, torch.Tensor]]]
        | None
    ) = None
