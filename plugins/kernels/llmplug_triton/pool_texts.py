"""The op `pool_texts`: one vector a text, a program a block of its numbers.

A text is walked in steps that are counted from its own first token, so that what it is packed with
changes nothing. Lengths are those of the whole vectors: a second kernel divides by them.

Legend: T packed tokens, N texts, D model width, L tokens that are read at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import triton
import triton.language as tl

from llmplug import KernelInputError
from llmplug.ops import send_to_device
from llmplug_triton.tensors import DTYPES, count_warps, round_up_to_power, with_dense_rows

# Numbers and tokens that a program reads at once: 32 numbers a thread. Reasoned, not measured yet.
_BLOCK_D = 128
_BLOCK_L = 32
_MAX_WIDTH = 65536  # a vector is one block where its length is taken
# As torch.nn.functional.normalize has it: a vector of zeros stays one.
_LEAST_LENGTH = 1e-12
# What is read of a text: all of it, its first token, its last one.
_PARTS = {"mean": 0, "max": 0, "cls": 1, "last": 2}


@triton.jit
def _pool_kernel(
    hidden: tl.tensor,
    starts: tl.tensor,  # (N + 1)
    pooled: tl.tensor,
    stride: tl.tensor,
    WIDTH: tl.constexpr,
    PART: tl.constexpr,  # as in _PARTS
    IS_MAX: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_L: tl.constexpr,
) -> None:
    text = tl.program_id(0).to(tl.int64)  # the grid ends with the texts
    column_D = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    is_column_D = column_D < WIDTH
    start, end = tl.load(starts + text), tl.load(starts + text + 1)
    if PART == 1:
        end = start + 1
    elif PART == 2:
        start = end - 1
    sum_D = tl.zeros((BLOCK_D,), tl.float32)
    max_D = tl.full((BLOCK_D,), float("-inf"), tl.float32)
    num_nan_D = tl.zeros((BLOCK_D,), tl.int32)
    for base in range(start, end, BLOCK_L):
        token_L = base + tl.arange(0, BLOCK_L)
        is_there_LD = (token_L < end)[:, None] & is_column_D[None, :]
        place_LD = token_L.to(tl.int64)[:, None] * stride + column_D[None, :]
        x_LD = tl.load(hidden + place_LD, mask=is_there_LD, other=0.0).to(tl.float32)
        if IS_MAX:  # the maximum passes over NaN, which is to stay
            num_nan_D += tl.sum((x_LD != x_LD).to(tl.int32), 0)  # noqa: PLR0124 - only a NaN is
            max_D = tl.maximum(max_D, tl.max(tl.where(is_there_LD, x_LD, float("-inf")), 0))
        else:
            sum_D += tl.sum(x_LD, 0)
    pooled_D = sum_D / (end - start)
    if IS_MAX:
        pooled_D = tl.where(num_nan_D > 0, float("nan"), max_D)
    tl.store(pooled + text * WIDTH + column_D, pooled_D, mask=is_column_D)


@triton.jit
def _normalise_kernel(
    pooled: tl.tensor, WIDTH: tl.constexpr, LEAST: tl.constexpr, BLOCK_D: tl.constexpr
) -> None:
    row = tl.program_id(0).to(tl.int64)  # the grid ends with the texts
    column_D = tl.arange(0, BLOCK_D)
    is_there_D = column_D < WIDTH
    x_D = tl.load(pooled + row * WIDTH + column_D, mask=is_there_D, other=0.0)
    length = tl.sqrt(tl.sum(x_D * x_D, 0))
    length = tl.where(length < LEAST, LEAST, length)  # NaN stays NaN
    tl.store(pooled + row * WIDTH + column_D, x_D / length, mask=is_there_D)


def pool_texts(
    hidden_TD: torch.Tensor, starts: Sequence[int], *, kind: str, is_normalised: bool
) -> torch.Tensor:
    """Pool each text; twin of `llmplug.ops.pool_texts`.

    Raises:
        KernelInputError: hidden states are no matrix of float32, bfloat16 or float16, rows are
            beyond 65536 numbers, texts are empty or not those of the tokens, or no pooling has
            this name.
    """
    _check(hidden_TD, starts, kind)
    hidden_TD = with_dense_rows(hidden_TD)
    num_texts, width = len(starts) - 1, hidden_TD.shape[1]
    pooled_ND = torch.empty((num_texts, width), device=hidden_TD.device, dtype=torch.float32)
    if pooled_ND.numel() == 0:
        return pooled_ND
    _pool_kernel[(num_texts, triton.cdiv(width, _BLOCK_D))](
        hidden_TD, send_to_device(starts, hidden_TD.device, torch.int32), pooled_ND,
        hidden_TD.stride(0), WIDTH=width, PART=_PARTS[kind], IS_MAX=kind == "max",
        BLOCK_D=min(_BLOCK_D, round_up_to_power(width)), BLOCK_L=_BLOCK_L, num_warps=4,
    )  # fmt: skip
    if is_normalised:
        block = round_up_to_power(width)
        _normalise_kernel[(num_texts,)](
            pooled_ND, WIDTH=width, LEAST=_LEAST_LENGTH, BLOCK_D=block, num_warps=count_warps(block)
        )
    return pooled_ND


def _check(hidden_TD: torch.Tensor, starts: Sequence[int], kind: str) -> None:
    if kind not in _PARTS:
        raise KernelInputError(f"no pooling is named {kind!r}: {', '.join(_PARTS)}")
    if hidden_TD.dim() != 2 or hidden_TD.dtype not in DTYPES or hidden_TD.shape[1] > _MAX_WIDTH:
        raise KernelInputError(
            f"hidden states are rows of up to {_MAX_WIDTH} numbers in float32, bfloat16 or "
            f"float16, not {hidden_TD.dtype} {tuple(hidden_TD.shape)}"
        )
    if (starts[0], starts[-1]) != (0, len(hidden_TD)) or any(a >= b for a, b in pairwise(starts)):
        raise KernelInputError(f"texts of {len(hidden_TD)} tokens cannot start at {list(starts)}")
