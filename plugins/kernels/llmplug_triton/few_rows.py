"""The product x @ weight.T of a dense weight for up to 16 rows, split over its inputs.

A product of few rows waits for the weight's bytes, and a weight of few outputs has too few blocks
of them for all multiprocessors. Splits are sums of their own, which a second kernel adds in their
order. There is one height of tiles, and the split is the weight's: a row's result does not depend
on how many rows there are.

It takes the place of torch's products only where the table of tuned sizes says that it is faster
(`llmplug tune`); without one it never runs.

Legend: T packed tokens, I inputs, O outputs, Z splits.
"""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

from llmplug.ops import DenseWeight, ModelSizes, Workload
from llmplug_triton.tensors import DTYPES, choose_dot_dtype, with_dense_rows
from llmplug_triton.tuning import cross, find_sizes, make_tunable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmplug.ops import Sizes, Tuning

_MOST_ROWS = 16  # the lowest tile that tensor cores have
_BLOCK_I = 128  # inputs that are walked at once: sums run in its order, so it is not for choice
_JOINED_O = 256  # outputs of a program that adds splits
# No splits: torch multiplies.
_TORCH = {"BLOCK_O": 32, "NUM_SPLITS": 0, "num_warps": 4, "num_stages": 4}
_CANDIDATES = cross(
    BLOCK_O=(16, 32, 64), NUM_SPLITS=(1, 2, 4, 8), num_warps=(4,), num_stages=(3, 5)
)
_TUNED_ROWS = (1, 4, 16)
_SPREAD = 0.02  # as models are initialised


@triton.jit
def _few_rows_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,  # read only if HAS_BIAS
    y: tl.tensor,  # (T, O), or with several splits their sums in float32, (Z, T, O)
    x_stride: tl.tensor,
    weight_stride: tl.tensor,
    num_tokens: tl.tensor,
    NUM_INPUTS: tl.constexpr,
    NUM_OUTPUTS: tl.constexpr,
    NUM_SPLITS: tl.constexpr,
    SPLIT_INPUTS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    DTYPE: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_I: tl.constexpr,
) -> None:
    output_O = tl.program_id(0).to(tl.int64) * BLOCK_O + tl.arange(0, BLOCK_O)
    split = tl.program_id(1)
    token_T = tl.arange(0, BLOCK_T)
    is_token_T, is_output_O = token_T < num_tokens, output_O < NUM_OUTPUTS
    sum_TO = tl.zeros((BLOCK_T, BLOCK_O), tl.float32)
    first = split * SPLIT_INPUTS
    for start in range(first, tl.minimum(first + SPLIT_INPUTS, NUM_INPUTS), BLOCK_I):
        input_I = start + tl.arange(0, BLOCK_I)
        is_input_I = input_I < NUM_INPUTS
        x_TI = tl.load(
            x + token_T.to(tl.int64)[:, None] * x_stride + input_I[None, :],
            mask=is_token_T[:, None] & is_input_I[None, :],
            other=0.0,
        )
        weight_IO = tl.load(
            weight + output_O[None, :] * weight_stride + input_I[:, None],
            mask=is_output_O[None, :] & is_input_I[:, None],
            other=0.0,
        )
        sum_TO = tl.dot(x_TI.to(DTYPE), weight_IO.to(DTYPE), sum_TO, input_precision="ieee")
    if HAS_BIAS and NUM_SPLITS == 1:
        sum_TO += tl.load(bias + output_O, mask=is_output_O, other=0.0).to(tl.float32)[None, :]
    row_T = split.to(tl.int64) * num_tokens + token_T
    tl.store(
        y + row_T[:, None] * NUM_OUTPUTS + output_O[None, :],
        sum_TO.to(y.dtype.element_ty),
        mask=is_token_T[:, None] & is_output_O[None, :],
    )


@triton.jit
def _add_splits_kernel(
    parts: tl.tensor,  # (Z, T, O)
    bias: tl.tensor,  # read only if HAS_BIAS
    y: tl.tensor,
    num_tokens: tl.tensor,
    NUM_OUTPUTS: tl.constexpr,
    NUM_SPLITS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK_O: tl.constexpr,
) -> None:
    token = tl.program_id(0).to(tl.int64)  # the grid ends with the tokens
    output_O = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    is_output_O = output_O < NUM_OUTPUTS
    sum_O = tl.zeros((BLOCK_O,), tl.float32)
    for split in range(NUM_SPLITS):
        part_O = parts + (split * num_tokens + token) * NUM_OUTPUTS + output_O
        sum_O += tl.load(part_O, mask=is_output_O, other=0.0)
    if HAS_BIAS:
        sum_O += tl.load(bias + output_O, mask=is_output_O, other=0.0).to(tl.float32)
    y_O = y + token * NUM_OUTPUTS + output_O
    tl.store(y_O, sum_O.to(y.dtype.element_ty), mask=is_output_O)


def choose_split(x_TI: torch.Tensor, packed: DenseWeight, tuning: Tuning | None) -> Sizes | None:
    """Return the sizes of a launch, or None where torch multiplies."""
    if tuning is None or not 0 < len(x_TI) <= _MOST_ROWS or x_TI.dtype not in DTYPES:
        return None
    shape = tuple(packed.weight_OI.shape)
    sizes = find_sizes(tuning, "few_rows", x_TI.dtype, shape, _TORCH)
    return sizes if sizes["NUM_SPLITS"] > 0 else None


def multiply_few_rows(x_TI: torch.Tensor, packed: DenseWeight, sizes: Sizes) -> torch.Tensor:
    """Return y_TO = x_TI @ weight.T + bias in the dtype of x_TI, for 1 to 16 rows that fit."""
    x_TI, weight_OI = with_dense_rows(x_TI), with_dense_rows(packed.weight_OI)
    num_tokens, (num_outputs, num_inputs) = len(x_TI), weight_OI.shape
    num_splits, device = sizes["NUM_SPLITS"], x_TI.device
    bias = weight_OI if packed.bias_O is None else packed.bias_O
    y_TO = torch.empty((num_tokens, num_outputs), device=device, dtype=x_TI.dtype)
    parts = y_TO
    if num_splits > 1:
        shape = (num_splits, num_tokens, num_outputs)
        parts = torch.empty(shape, device=device, dtype=torch.float32)
    blocks = triton.cdiv(triton.cdiv(num_inputs, _BLOCK_I), num_splits)
    kernel: Any = _few_rows_kernel
    kernel[(triton.cdiv(num_outputs, sizes["BLOCK_O"]), num_splits)](
        x_TI, weight_OI, bias, parts, x_TI.stride(0), weight_OI.stride(0), num_tokens,
        NUM_INPUTS=num_inputs, NUM_OUTPUTS=num_outputs, SPLIT_INPUTS=blocks * _BLOCK_I,
        HAS_BIAS=packed.bias_O is not None, DTYPE=choose_dot_dtype(x_TI.dtype),
        BLOCK_T=_MOST_ROWS, BLOCK_I=_BLOCK_I, **sizes,
    )  # fmt: skip
    if num_splits > 1:
        _add_splits_kernel[(num_tokens, triton.cdiv(num_outputs, _JOINED_O))](
            parts, bias, y_TO, num_tokens, NUM_OUTPUTS=num_outputs, NUM_SPLITS=num_splits,
            HAS_BIAS=packed.bias_O is not None, BLOCK_O=_JOINED_O,
        )  # fmt: skip
    return y_TO


def _list_products(
    sizes: ModelSizes, device: torch.device, dtype: torch.dtype
) -> Sequence[Workload]:
    """Return the products of a model's weights, were they dense."""
    make = cache(_make_weight)  # one is many megabytes, and serves all numbers of rows
    return [
        Workload(
            prepare=partial(_prepare, partial(make, *shape, device, dtype), num_tokens),
            num_bytes=(shape[0] * shape[1] + num_tokens * sum(shape)) * dtype.itemsize,
            num_flops=2.0 * num_tokens * shape[0] * shape[1],
        )
        for shape in sizes.weights
        for num_tokens in (_TUNED_ROWS if device.type == "cuda" else _TUNED_ROWS[:1])
    ]


def _make_weight(
    outputs: int, inputs: int, device: torch.device, dtype: torch.dtype
) -> DenseWeight:
    generator = torch.Generator(device).manual_seed(outputs * 31 + inputs)
    weight_OI = torch.randn(outputs, inputs, generator=generator, device=device) * _SPREAD
    return DenseWeight(weight_OI.to(dtype), None, str(dtype).removeprefix("torch."))


def _prepare(make: partial[DenseWeight], num_tokens: int, kernel: Any) -> partial[torch.Tensor]:
    packed = make()
    weight_OI = packed.weight_OI
    generator = torch.Generator(weight_OI.device).manual_seed(2)
    shape = (num_tokens, weight_OI.shape[1])
    x_TI = torch.randn(shape, generator=generator, device=weight_OI.device).to(weight_OI.dtype)
    return partial(kernel, x_TI, packed)


FEW_ROWS = make_tunable(
    _few_rows_kernel,
    name="few_rows",
    shape_names=("outputs", "inputs"),
    candidates=_CANDIDATES,
    is_exact=False,
    workloads=_list_products,
)
