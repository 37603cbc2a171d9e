"""The op `silu_mul`: y = gate / (1 + exp(-gate)) * up, a program a block of a row.

Legend: T packed tokens, F width of the feed-forward layer.
Source: https://arxiv.org/abs/2002.05202, section 2 (SwiGLU)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from llmplug_triton.gated_rows import launch_gate, make_gate_tunable

if TYPE_CHECKING:
    import torch

    from llmplug.ops import Tuning


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


SILU_MUL = make_gate_tunable(_silu_mul_kernel, "silu_mul")


def silu_mul(x_T2F: torch.Tensor, *, tuning: Tuning | None = None) -> torch.Tensor:
    """Gate the second half of each row with the first; twin of `llmplug.ops.silu_mul`.

    Raises:
        KernelInputError: x is no matrix, or its rows are of odd width.
    """
    return launch_gate(_silu_mul_kernel, "silu_mul", x_T2F, tuning)
