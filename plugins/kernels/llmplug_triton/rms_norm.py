"""The ops `rms_norm` and `add_rms_norm`: y = x / sqrt(mean(x^2) + eps) * weight, a program a row.

Legend: T packed tokens, D model width.
Source: https://arxiv.org/abs/1910.07467, section 3
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

from llmplug import KernelInputError
from llmplug.ops import ModelSizes, Workload
from llmplug_triton.tensors import count_warps, round_up_to_power, with_dense_rows
from llmplug_triton.tuning import cross, find_sizes, list_rows, make_tunable

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmplug.ops import Tuning

# A row is one block, so that it is read once; wider rows would spill. No model comes near.
_MAX_WIDTH = 65536
# Warps share the sum of a row, so that it runs in another order for other numbers of them.
_CANDIDATES = cross(num_warps=(1, 2, 4, 8, 16))


@triton.jit
def _rms_norm_kernel(
    x: tl.tensor,
    residual: tl.tensor,  # read only if ADDS, as sums is written
    weight: tl.tensor,
    y: tl.tensor,
    sums: tl.tensor,
    x_stride_outer: tl.tensor,
    x_stride_inner: tl.tensor,
    residual_stride: tl.tensor,
    eps: tl.tensor,
    NUM_INNER: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ADDS: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    column_D = tl.arange(0, BLOCK_D)
    is_there_D = column_D < WIDTH
    x_row = x + row // NUM_INNER * x_stride_outer + row % NUM_INNER * x_stride_inner
    x_D = tl.load(x_row + column_D, mask=is_there_D, other=0.0).to(tl.float32)
    if ADDS:
        residual_row = residual + row * residual_stride
        x_D += tl.load(residual_row + column_D, mask=is_there_D, other=0.0).to(tl.float32)
        sum_D = x_D.to(sums.dtype.element_ty)
        tl.store(sums + row * WIDTH + column_D, sum_D, mask=is_there_D)
        x_D = sum_D.to(tl.float32)  # the norm is that of the sum as it is kept
    scale = tl.rsqrt(tl.sum(x_D * x_D, 0) / WIDTH + eps)
    weight_D = tl.load(weight + column_D, mask=is_there_D, other=0.0).to(tl.float32)
    y_D = (x_D * scale * weight_D).to(y.dtype.element_ty)
    tl.store(y + row * WIDTH + column_D, y_D, mask=is_there_D)


def rms_norm(
    x_TD: torch.Tensor, weight_D: torch.Tensor, *, eps: float, tuning: Tuning | None = None
) -> torch.Tensor:
    """Divide each row by its root mean square and scale it; twin of `llmplug.ops.rms_norm`.

    Any number of leading dimensions. Up to three dimensions are read in place, as the norms of
    single heads within a joined projection are.

    Raises:
        KernelInputError: the weight is of another width, or a row is beyond 65536 numbers.
    """
    y_TD = torch.empty(x_TD.shape, device=x_TD.device, dtype=x_TD.dtype)
    _check(x_TD, weight_D)
    if y_TD.numel() == 0:
        return y_TD
    x_TD = with_dense_rows(x_TD)
    if x_TD.dim() > 3:
        x_TD = x_TD.reshape(-1, *x_TD.shape[-2:])
    x_TiD = x_TD if x_TD.dim() == 3 else x_TD.view(-1, 1, x_TD.shape[-1])
    _launch(x_TiD, None, weight_D, y_TD, None, eps, tuning)
    return y_TD


def add_rms_norm(
    x_TD: torch.Tensor,
    residual_TD: torch.Tensor,
    weight_D: torch.Tensor,
    *,
    eps: float,
    tuning: Tuning | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add x to the residual stream and norm the sum; twin of `llmplug.ops.add_rms_norm`.

    Returns:
        (y_TD, sum_TD), both new; the sum is rounded to the dtype before the norm.

    Raises:
        KernelInputError: shapes or dtypes of x and the residual differ, they are no matrices, or as
            for `rms_norm`.
    """
    if x_TD.dim() != 2 or residual_TD.shape != x_TD.shape or residual_TD.dtype != x_TD.dtype:
        raise KernelInputError(
            f"add_rms_norm adds matrices that are alike, not {x_TD.dtype} {tuple(x_TD.shape)} "
            f"and {residual_TD.dtype} {tuple(residual_TD.shape)}"
        )
    _check(x_TD, weight_D)
    y_TD = torch.empty(x_TD.shape, device=x_TD.device, dtype=x_TD.dtype)
    sum_TD = torch.empty_like(y_TD)
    if y_TD.numel() > 0:
        x_T1D, residual_TD = with_dense_rows(x_TD)[:, None], with_dense_rows(residual_TD)
        _launch(x_T1D, residual_TD, weight_D, y_TD, sum_TD, eps, tuning)
    return y_TD, sum_TD


def _check(x_TD: torch.Tensor, weight_D: torch.Tensor) -> None:
    width = x_TD.shape[-1] if x_TD.dim() else 0
    if weight_D.shape != (width,):
        raise KernelInputError(f"a weight of {tuple(weight_D.shape)} for rows of {width}")
    if not 0 < width <= _MAX_WIDTH:
        raise KernelInputError(f"rows of 1 to {_MAX_WIDTH} numbers, not of {width}")


def _launch(
    x_TiD: torch.Tensor,
    residual_TD: torch.Tensor | None,
    weight_D: torch.Tensor,
    y_TD: torch.Tensor,
    sum_TD: torch.Tensor | None,
    eps: float,
    tuning: Tuning | None,
) -> None:
    num_outer, num_inner, width = x_TiD.shape
    block = round_up_to_power(width)
    name = "rms_norm" if residual_TD is None else "add_rms_norm"
    sizes = find_sizes(tuning, name, x_TiD.dtype, (width,), {"num_warps": count_warps(block)})
    _rms_norm_kernel[(num_outer * num_inner,)](
        x_TiD,
        x_TiD if residual_TD is None else residual_TD,
        weight_D.contiguous(),
        y_TD,
        y_TD if sum_TD is None else sum_TD,
        x_TiD.stride(0),
        x_TiD.stride(1),
        0 if residual_TD is None else residual_TD.stride(0),
        eps,
        NUM_INNER=num_inner,
        WIDTH=width,
        BLOCK_D=block,
        ADDS=residual_TD is not None,
        num_warps=sizes["num_warps"],
    )


def _list_norms(
    sizes: ModelSizes, device: torch.device, dtype: torch.dtype, *, adds: bool
) -> list[Workload]:
    """Norms of a model's rows, and those of its heads where nothing is added."""
    heads = {} if adds else dict.fromkeys(width for _, _, width in sizes.heads)
    return [
        Workload(
            prepare=partial(_prepare, rows, width, device, dtype, adds=adds),
            num_bytes=(4.0 if adds else 2.0) * rows * width * dtype.itemsize,
            num_flops=0.0,
        )
        for width in (sizes.width, *heads)
        for rows in list_rows(device)
    ]


def _prepare(
    rows: int,
    width: int,
    device: torch.device,
    dtype: torch.dtype,
    norm: Callable[..., Any],
    *,
    adds: bool,
) -> partial[Any]:
    generator = torch.Generator(device).manual_seed(0)
    x_TD = torch.randn(rows, width, generator=generator, device=device).to(dtype)
    weight_D = torch.ones(width, device=device, dtype=dtype)
    residual = {"residual_TD": x_TD.clone()} if adds else {}
    return partial(norm, x_TD, weight_D=weight_D, eps=1e-6, **residual)


RMS_NORM, ADD_RMS_NORM = (
    make_tunable(
        _rms_norm_kernel,
        name=name,
        shape_names=("width",),
        candidates=_CANDIDATES,
        is_exact=False,
        workloads=partial(_list_norms, adds=name == "add_rms_norm"),
    )
    for name in ("rms_norm", "add_rms_norm")
)
