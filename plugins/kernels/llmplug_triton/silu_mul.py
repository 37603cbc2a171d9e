"""The op `silu_mul`: y = gate / (1 + exp(-gate)) * up, a program a block of a row.

Legend: T packed tokens, F width of the feed-forward layer.
Source: https://arxiv.org/abs/2002.05202, section 2 (SwiGLU)
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from llmplug import KernelInputError
from llmplug_triton.tensors import count_warps, round_up_to_power, with_dense_rows

# Numbers of a row that one program takes. Two inputs and an output of 16 numbers a thread fit the
# registers, and a single row of 8192 still spreads over eight programs. Not yet measured.
_BLOCK = 1024


@triton.jit
def _silu_mul_kernel(
    x: tl.tensor, y: tl.tensor, x_stride: tl.tensor, WIDTH: tl.constexpr, BLOCK_F: tl.constexpr
) -> None:
    row = tl.program_id(0).to(tl.int64)
    column_F = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    is_there_F = column_F < WIDTH
    gate_ptr = x + row * x_stride + column_F
    gate_F = tl.load(gate_ptr, mask=is_there_F, other=0.0).to(tl.float32)
    up_F = tl.load(gate_ptr + WIDTH, mask=is_there_F, other=0.0).to(tl.float32)
    y_F = gate_F / (1.0 + tl.exp(-gate_F)) * up_F
    tl.store(y + row * WIDTH + column_F, y_F.to(y.dtype.element_ty), mask=is_there_F)


def silu_mul(x_T2F: torch.Tensor) -> torch.Tensor:
    """Gate the second half of each row with the first; twin of `llmplug.ops.silu_mul`.

    Raises:
        KernelInputError: x is no matrix, or its rows are of odd width.
    """
    if x_T2F.dim() != 2 or x_T2F.shape[1] % 2:
        raise KernelInputError(f"silu_mul takes rows of even width, not {tuple(x_T2F.shape)}")
    x_T2F = with_dense_rows(x_T2F)
    num_tokens, width = x_T2F.shape[0], x_T2F.shape[1] // 2
    y_TF = torch.empty((num_tokens, width), device=x_T2F.device, dtype=x_T2F.dtype)
    if y_TF.numel() == 0:
        return y_TF
    block = min(round_up_to_power(width), _BLOCK)
    _silu_mul_kernel[(num_tokens, triton.cdiv(width, block))](
        x_T2F, y_TF, x_T2F.stride(0), WIDTH=width, BLOCK_F=block, num_warps=count_warps(block)
    )
    return y_TF
