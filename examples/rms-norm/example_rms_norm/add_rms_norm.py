"""The op `add_rms_norm`: s = x + residual, y = s / sqrt(mean(s^2) + eps) * weight.

A row is read once, and is one block: all of it is in registers while its mean is found.

Legend: T packed tokens, D model width.
Source: https://arxiv.org/abs/1910.07467, section 3
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from llmplug import KernelInputError

_MAX_WIDTH = 32768  # numbers of a row: what does not fit into registers would spill
_NUM_WARPS = 4  # not measured


@triton.jit
def _add_rms_norm_kernel(
    x: tl.tensor,
    residual: tl.tensor,
    weight: tl.tensor,
    sums: tl.tensor,
    y: tl.tensor,
    eps: tl.tensor,
    WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> None:
    start = tl.program_id(0).to(tl.int64) * WIDTH
    column_D = tl.arange(0, BLOCK_D)
    is_there_D = column_D < WIDTH
    x_D = tl.load(x + start + column_D, mask=is_there_D, other=0.0).to(tl.float32)
    residual_D = tl.load(residual + start + column_D, mask=is_there_D, other=0.0).to(tl.float32)
    kept_D = (x_D + residual_D).to(sums.dtype.element_ty)
    tl.store(sums + start + column_D, kept_D, mask=is_there_D)
    sum_D = kept_D.to(tl.float32)  # the norm is that of the sum as it is kept
    scale = tl.rsqrt(tl.sum(sum_D * sum_D, 0) / WIDTH + eps)
    weight_D = tl.load(weight + column_D, mask=is_there_D, other=0.0).to(tl.float32)
    y_D = (sum_D * scale * weight_D).to(y.dtype.element_ty)
    tl.store(y + start + column_D, y_D, mask=is_there_D)


def add_rms_norm(
    x_TD: torch.Tensor, residual_TD: torch.Tensor, weight_D: torch.Tensor, *, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add x to the residual stream and norm the sum; twin of `llmplug.ops.add_rms_norm`.

    Returns:
        (y_TD, sum_TD), both new.

    Raises:
        KernelInputError: shapes or dtypes do not go together, or rows are beyond 32768 numbers.
    """
    _check(x_TD, residual_TD, weight_D)
    num_rows, width = x_TD.shape
    sum_TD = torch.empty((num_rows, width), device=x_TD.device, dtype=x_TD.dtype)
    y_TD = torch.empty_like(sum_TD)
    if num_rows:
        _add_rms_norm_kernel[(num_rows,)](
            x_TD.contiguous(),
            residual_TD.contiguous(),
            weight_D.contiguous(),
            sum_TD,
            y_TD,
            eps,
            WIDTH=width,
            BLOCK_D=triton.next_power_of_2(width),
            num_warps=_NUM_WARPS,
        )
    return y_TD, sum_TD


def _check(x_TD: torch.Tensor, residual_TD: torch.Tensor, weight_D: torch.Tensor) -> None:
    if x_TD.dim() != 2 or residual_TD.shape != x_TD.shape or residual_TD.dtype != x_TD.dtype:
        raise KernelInputError(
            f"add_rms_norm adds matrices that are alike, not {x_TD.dtype} {tuple(x_TD.shape)} "
            f"and {residual_TD.dtype} {tuple(residual_TD.shape)}"
        )
    width = x_TD.shape[1]
    if weight_D.shape != (width,) or not 0 < width <= _MAX_WIDTH:
        raise KernelInputError(
            f"add_rms_norm scales rows of 1 to {_MAX_WIDTH} numbers by as many weights, not rows "
            f"of {width} by {tuple(weight_D.shape)}"
        )
