"""The op `rope`: (a, b) becomes (a cos - b sin, b cos + a sin), a program a token.

Legend: T packed tokens, N query heads, K key/value heads, H head width, R rotary width, r half of
it, C context length.
Source: https://arxiv.org/abs/2104.09864, section 3.4.2, in the split-half order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from llmplug import KernelInputError
from llmplug_triton.tensors import count_warps, round_up_to_power, with_dense_rows


@triton.jit
def _rotate_heads(
    x: tl.tensor,  # the token's first number
    stride: tl.tensor,  # from head to head
    y: tl.tensor,  # the token's first number; heads lie side by side
    cos_r: tl.tensor,
    sin_r: tl.tensor,
    NUM_HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_r: tl.constexpr,
    BLOCK_REST: tl.constexpr,
) -> None:
    head_N1 = tl.arange(0, BLOCK_N)[:, None]
    column_1r = tl.arange(0, BLOCK_r)[None, :]
    is_there_Nr = (head_N1 < NUM_HEADS) & (column_1r < HALF)
    x_Nr = x + head_N1 * stride + column_1r
    y_Nr = y + head_N1 * WIDTH + column_1r
    first_Nr = tl.load(x_Nr, mask=is_there_Nr, other=0.0).to(tl.float32)
    second_Nr = tl.load(x_Nr + HALF, mask=is_there_Nr, other=0.0).to(tl.float32)
    new_first_Nr = first_Nr * cos_r[None, :] - second_Nr * sin_r[None, :]
    new_second_Nr = second_Nr * cos_r[None, :] + first_Nr * sin_r[None, :]
    tl.store(y_Nr, new_first_Nr.to(y.dtype.element_ty), mask=is_there_Nr)
    tl.store(y_Nr + HALF, new_second_Nr.to(y.dtype.element_ty), mask=is_there_Nr)
    if WIDTH > 2 * HALF:
        column_1h = 2 * HALF + tl.arange(0, BLOCK_REST)[None, :]
        is_there_Nh = (head_N1 < NUM_HEADS) & (column_1h < WIDTH)
        rest_Nh = tl.load(x + head_N1 * stride + column_1h, mask=is_there_Nh, other=0.0)
        tl.store(y + head_N1 * WIDTH + column_1h, rest_Nh, mask=is_there_Nh)


@triton.jit
def _rope_kernel(
    q: tl.tensor,
    k: tl.tensor,
    positions: tl.tensor,
    table: tl.tensor,
    new_q: tl.tensor,
    new_k: tl.tensor,
    q_stride_token: tl.tensor,
    q_stride_head: tl.tensor,
    k_stride_token: tl.tensor,
    k_stride_head: tl.tensor,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_r: tl.constexpr,
    BLOCK_REST: tl.constexpr,
) -> None:
    token = tl.program_id(0).to(tl.int64)
    angles = table + tl.load(positions + token) * (2 * HALF)  # the grid ends with the tokens
    column_r = tl.arange(0, BLOCK_r)
    cos_r = tl.load(angles + column_r, mask=column_r < HALF, other=0.0)
    sin_r = tl.load(angles + HALF + column_r, mask=column_r < HALF, other=0.0)
    _rotate_heads(
        q + token * q_stride_token, q_stride_head, new_q + token * NUM_HEADS * WIDTH,
        cos_r, sin_r, NUM_HEADS, WIDTH, HALF, BLOCK_N, BLOCK_r, BLOCK_REST,
    )  # fmt: skip
    _rotate_heads(
        k + token * k_stride_token, k_stride_head, new_k + token * NUM_KV_HEADS * WIDTH,
        cos_r, sin_r, NUM_KV_HEADS, WIDTH, HALF, BLOCK_K, BLOCK_r, BLOCK_REST,
    )  # fmt: skip


def rope(
    q_TNH: torch.Tensor, k_TKH: torch.Tensor, positions_T: torch.Tensor, table_CR: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate queries and keys by the angles of their positions; twin of `llmplug.ops.rope`.

    Raises:
        KernelInputError: shapes do not fit, the table is not float32 or positions are not int64.
    """
    check_positions(q_TNH, k_TKH, positions_T, table_CR)
    q_TNH, k_TKH = with_dense_rows(q_TNH), with_dense_rows(k_TKH)
    num_tokens, num_heads, width = q_TNH.shape
    num_kv_heads, half = k_TKH.shape[1], table_CR.shape[1] // 2
    new_q_TNH = torch.empty(q_TNH.shape, device=q_TNH.device, dtype=q_TNH.dtype)
    new_k_TKH = torch.empty(k_TKH.shape, device=k_TKH.device, dtype=k_TKH.dtype)
    if num_tokens == 0:
        return new_q_TNH, new_k_TKH
    block_N, block_r = round_up_to_power(num_heads), round_up_to_power(half)
    _rope_kernel[(num_tokens,)](
        q_TNH, k_TKH, positions_T.contiguous(), table_CR.contiguous(), new_q_TNH, new_k_TKH,
        q_TNH.stride(0), q_TNH.stride(1), k_TKH.stride(0), k_TKH.stride(1),
        NUM_HEADS=num_heads, NUM_KV_HEADS=num_kv_heads, WIDTH=width, HALF=half,
        BLOCK_N=block_N, BLOCK_K=round_up_to_power(num_kv_heads), BLOCK_r=block_r,
        BLOCK_REST=round_up_to_power(max(width - 2 * half, 1)),
        num_warps=count_warps(block_N * block_r),
    )  # fmt: skip
    return new_q_TNH, new_k_TKH


def check_positions(
    q_TNH: torch.Tensor, k_TKH: torch.Tensor, positions_T: torch.Tensor, table_CR: torch.Tensor
) -> None:
    """Raise KernelInputError unless these heads can be rotated by these angles."""
    if q_TNH.dim() != 3 or k_TKH.dim() != 3 or q_TNH.shape[::2] != k_TKH.shape[::2]:
        raise KernelInputError(
            f"queries of {tuple(q_TNH.shape)} and keys of {tuple(k_TKH.shape)} do not fit"
        )
    rotary = table_CR.shape[-1]
    if table_CR.dtype is not torch.float32 or table_CR.dim() != 2 or rotary % 2:
        raise KernelInputError(
            f"angles must be float32 rows of even width, not {table_CR.dtype} "
            f"{tuple(table_CR.shape)}"
        )
    if rotary > q_TNH.shape[2]:
        raise KernelInputError(f"cannot rotate {rotary} numbers of heads of {q_TNH.shape[2]}")
    if positions_T.dtype is not torch.int64 or positions_T.shape != q_TNH.shape[:1]:
        raise KernelInputError(f"{q_TNH.shape[0]} tokens need as many int64 positions")
