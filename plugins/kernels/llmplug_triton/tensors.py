"""What the launchers ask of the tensors that they are given."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

# Numbers that one warp takes of a row: 16 a thread. From the size of the loads (16 bytes a thread,
# at most four in flight), not yet measured.
_NUMBERS_PER_WARP = 512

DTYPES = {
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}


def choose_dot_dtype(dtype: torch.dtype, kernel: Any) -> Any:
    """Return what tiles are multiplied in; the interpreter has no products of bfloat16."""
    if dtype is torch.bfloat16 and not isinstance(kernel, triton.JITFunction):
        return tl.float32
    return DTYPES[dtype]


def with_dense_rows(x: torch.Tensor) -> torch.Tensor:
    """Return x if the numbers of its last dimension lie side by side, else a copy."""
    return x if x.stride(-1) == 1 else x.contiguous()


def round_up_to_power(count: int, at_least: int = 1) -> int:
    """Return the size of the block that holds `count` numbers: blocks are powers of two."""
    return max(at_least, int(triton.next_power_of_2(count)))


def count_warps(block: int) -> int:
    """Return how many warps share one block; it depends on the width alone, so sums do too."""
    return min(max(block // _NUMBERS_PER_WARP, 1), 16)
