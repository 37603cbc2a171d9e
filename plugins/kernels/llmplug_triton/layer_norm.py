"""The op `layer_norm`: y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias, a program a row.

Legend: T packed tokens, D model width.
Source: https://arxiv.org/abs/1607.06450
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from llmplug import KernelInputError
from llmplug_triton.tensors import DTYPES, count_warps, round_up_to_power, with_dense_rows

# A row is one block, so that it is read once and its deviation is that from its own mean.
_MAX_WIDTH = 65536


@triton.jit
def _layer_norm_kernel(
    x: tl.tensor,
    residual: tl.tensor,  # read only if ADDS
    weight: tl.tensor,
    bias: tl.tensor,  # read only if HAS_BIAS
    y: tl.tensor,
    x_stride: tl.tensor,
    residual_stride: tl.tensor,
    eps: tl.tensor,
    WIDTH: tl.constexpr,
    ADDS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)  # the grid ends with the rows
    column_D = tl.arange(0, BLOCK_D)
    is_there_D = column_D < WIDTH
    x_D = tl.load(x + row * x_stride + column_D, mask=is_there_D, other=0.0).to(tl.float32)
    if ADDS:
        residual_row = residual + row * residual_stride
        x_D += tl.load(residual_row + column_D, mask=is_there_D, other=0.0).to(tl.float32)
        x_D = x_D.to(x.dtype.element_ty).to(tl.float32)  # the sum is rounded, as x is
    # The mean first and then the squares: the difference of two large sums would lose the variance.
    shifted_D = tl.where(is_there_D, x_D - tl.sum(x_D, 0) / WIDTH, 0.0)
    scale = tl.rsqrt(tl.sum(shifted_D * shifted_D, 0) / WIDTH + eps)
    y_D = shifted_D * scale
    y_D *= tl.load(weight + column_D, mask=is_there_D, other=0.0).to(tl.float32)
    if HAS_BIAS:
        y_D += tl.load(bias + column_D, mask=is_there_D, other=0.0).to(tl.float32)
    tl.store(y + row * WIDTH + column_D, y_D.to(y.dtype.element_ty), mask=is_there_D)


def layer_norm(
    x_TD: torch.Tensor,
    weight_D: torch.Tensor,
    bias_D: torch.Tensor | None,
    *,
    eps: float,
    residual_TD: torch.Tensor | None = None,
) -> torch.Tensor:
    """Shift, divide and scale each row; twin of `llmplug.ops.layer_norm`.

    Raises:
        KernelInputError: x is no matrix of float32, bfloat16 or float16, its rows are beyond 65536
            numbers, weight or bias are of another width, or the residual is not like x.
    """
    _check(x_TD, weight_D, bias_D, residual_TD)
    y_TD = torch.empty(x_TD.shape, device=x_TD.device, dtype=x_TD.dtype)
    if y_TD.numel() == 0:
        return y_TD
    x_TD = with_dense_rows(x_TD)
    residual = x_TD if residual_TD is None else with_dense_rows(residual_TD)
    num_tokens, width = x_TD.shape
    block = round_up_to_power(width)
    _layer_norm_kernel[(num_tokens,)](
        x_TD, residual, weight_D.contiguous(), weight_D if bias_D is None else bias_D.contiguous(),
        y_TD, x_TD.stride(0), residual.stride(0), eps, WIDTH=width, ADDS=residual_TD is not None,
        HAS_BIAS=bias_D is not None, BLOCK_D=block, num_warps=count_warps(block),
    )  # fmt: skip
    return y_TD


def _check(
    x_TD: torch.Tensor,
    weight_D: torch.Tensor,
    bias_D: torch.Tensor | None,
    residual_TD: torch.Tensor | None,
) -> None:
    if x_TD.dim() != 2 or x_TD.dtype not in DTYPES or not 0 < x_TD.shape[1] <= _MAX_WIDTH:
        raise KernelInputError(
            f"layer_norm takes rows of 1 to {_MAX_WIDTH} numbers in float32, bfloat16 or float16, "
            f"not {x_TD.dtype} {tuple(x_TD.shape)}"
        )
    for name, vector_D in (("weight", weight_D), ("bias", bias_D)):
        if vector_D is not None and vector_D.shape != x_TD.shape[1:]:
            raise KernelInputError(
                f"a {name} of {tuple(vector_D.shape)} for rows of {x_TD.shape[1]}"
            )
    if residual_TD is not None and (residual_TD.shape, residual_TD.dtype) != (
        x_TD.shape,
        x_TD.dtype,
    ):
        raise KernelInputError(
            f"a residual of {residual_TD.dtype} {tuple(residual_TD.shape)} for rows of "
            f"{x_TD.dtype} {tuple(x_TD.shape)}"
        )
