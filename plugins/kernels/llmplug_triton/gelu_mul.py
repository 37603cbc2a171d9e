"""The op `gelu_mul`: y = gelu(gate) * up, a program a block of a row.

The tanh of the approximation is written as a logistic function, whose exp may overflow: 1 / inf is
the 0 that is wanted.

Legend: T packed tokens, F width of the feed-forward layer.
Source: https://arxiv.org/abs/1606.08415, section 2 (GELU and its approximation);
https://arxiv.org/abs/2002.05202, section 2 (GEGLU)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from llmplug import KernelInputError
from llmplug_triton.gated_rows import launch_gate, make_gate_tunable

if TYPE_CHECKING:
    import torch

    from llmplug.ops import Tuning


@triton.jit
def _gelu_mul_kernel(
    x: tl.tensor,
    y: tl.tensor,
    x_stride: tl.tensor,
    WIDTH: tl.constexpr,
    IS_TANH: tl.constexpr,
    BLOCK_F: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    column_F = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    is_there_F = column_F < WIDTH
    gate_ptr = x + row * x_stride + column_F
    gate_F = tl.load(gate_ptr, mask=is_there_F, other=0.0).to(tl.float32)
    up_F = tl.load(gate_ptr + WIDTH, mask=is_there_F, other=0.0).to(tl.float32)
    if IS_TANH:  # 1 + tanh(z) = 2 / (1 + exp(-2 z)), z = sqrt(2 / pi) (g + 0.044715 g^3)
        twice_F = 1.5957691216057308 * gate_F * (1.0 + 0.044715 * gate_F * gate_F)
        gelu_F = gate_F / (1.0 + tl.exp(-twice_F))
    else:
        gelu_F = 0.5 * gate_F * (1.0 + tl.erf(0.7071067811865476 * gate_F))
    tl.store(y + row * WIDTH + column_F, (gelu_F * up_F).to(y.dtype.element_ty), mask=is_there_F)


GELU_MUL = make_gate_tunable(_gelu_mul_kernel, "gelu_mul")


def gelu_mul(
    x_T2F: torch.Tensor, *, approximate: str = "tanh", tuning: Tuning | None = None
) -> torch.Tensor:
    """Gate the second half of each row with the first; twin of `llmplug.ops.gelu_mul`.

    Raises:
        KernelInputError: x is no matrix, its rows are of odd width, or `approximate` is neither
            `tanh` nor `none`.
    """
    if approximate not in {"tanh", "none"}:
        raise KernelInputError(f"gelu_mul approximates by 'tanh' or 'none', not {approximate!r}")
    return launch_gate(_gelu_mul_kernel, "gelu_mul", x_T2F, tuning, IS_TANH=approximate == "tanh")
