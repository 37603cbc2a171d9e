"""What the launchers ask of the tensors that they are given."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from llmplug import KernelInputError

# Numbers that one warp takes of a row: 16 a thread. From the size of the loads (16 bytes a thread,
# at most four in flight), not yet measured.
_NUMBERS_PER_WARP = 512

DTYPES = {
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}


# The smallest side of a tile that tensor cores multiply.
MIN_SIDE = 16


@triton.jit
def _do_nothing() -> None:
    pass


def choose_dot_dtype(dtype: torch.dtype) -> Any:
    """Return what tiles are multiplied in; the interpreter has no products of bfloat16."""
    if dtype is torch.bfloat16 and not isinstance(_do_nothing, triton.JITFunction):
        return tl.float32
    return DTYPES[dtype]


def explain_no_fp8(device: torch.device) -> str | None:
    """Say that a GPU has no 8-bit floats, as those before Ada and Hopper; None: it has."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 9):
        return f"{torch.cuda.get_device_name(device)} has no 8-bit floats"
    return None


def refuse_gpu_without_fp8(device: torch.device, way_out: str) -> None:
    """Raise KernelInputError on a GPU that has no 8-bit floats."""
    reason = explain_no_fp8(device)
    if reason is not None:
        raise KernelInputError(f"{reason}: set {way_out}")


def with_dense_rows(x: torch.Tensor) -> torch.Tensor:
    """Return x if the numbers of its last dimension lie side by side, else a copy."""
    return x if x.stride(-1) == 1 else x.contiguous()


def round_up_to_power(count: int, at_least: int = 1) -> int:
    """Return the size of the block that holds `count` numbers: blocks are powers of two."""
    return max(at_least, int(triton.next_power_of_2(count)))


def count_warps(block: int) -> int:
    """Return how many warps share one block; it depends on the width alone, so sums do too."""
    return min(max(block // _NUMBERS_PER_WARP, 1), 16)
