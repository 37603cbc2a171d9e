"""The op `rope_store`: norms of heads, rotation and the cache's new tokens, a program a token.

Each step rounds to the dtype of the heads, as the single kernels do, so that fusing changes nothing
but the sums of the norms.

Legend: T packed tokens, N query heads, K key/value heads, H head width, r half the rotary width,
h what is not rotated.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

from llmplug import KernelInputError
from llmplug.ops import DecoderLayer, ModelSizes, Workload, make_rope_table
from llmplug_triton.cache_store import LARGEST, check_slots
from llmplug_triton.rope import check_positions
from llmplug_triton.tensors import count_warps, round_up_to_power, with_dense_rows
from llmplug_triton.tuning import cross, find_sizes, list_rows, make_tunable

if TYPE_CHECKING:
    from llmplug.ops import KVCache, Tuning

# Warps share the norms' sums, so that they run in another order for other numbers of them.
_CANDIDATES = cross(num_warps=(1, 2, 4, 8))


@triton.jit
def _put(
    y: tl.tensor, x: tl.tensor, mask: tl.tensor, inverse_scale: tl.tensor, LARGEST: tl.constexpr
) -> None:
    """Store in the dtype of y, scaled and within what it can hold; NaN stays NaN."""
    if LARGEST > 0:
        x = x.to(tl.float32) * inverse_scale
        x = tl.clamp(x, -LARGEST, LARGEST, propagate_nan=tl.PropagateNan.ALL)
    tl.store(y, x.to(y.dtype.element_ty), mask=mask)


@triton.jit
def _norm_and_rotate(
    x: tl.tensor,  # the token's first number
    stride: tl.tensor,  # from head to head
    weight: tl.tensor,  # of the norm
    y: tl.tensor,  # where the token's first head goes
    cos_r: tl.tensor,
    sin_r: tl.tensor,
    eps: tl.tensor,
    inverse_scale: tl.tensor,  # of y, read only if LARGEST
    HAS_NORM: tl.constexpr,
    NUM_HEADS: tl.constexpr,
    Y_STRIDE: tl.constexpr,  # from head to head
    WIDTH: tl.constexpr,
    HALF: tl.constexpr,
    LARGEST: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_r: tl.constexpr,
    BLOCK_REST: tl.constexpr,
    is_kept: tl.tensor,  # whether anything is written
) -> None:
    dtype = x.dtype.element_ty
    head_N1 = tl.arange(0, BLOCK_N)[:, None].to(tl.int64)
    column_1r = tl.arange(0, BLOCK_r)[None, :]
    column_1h = 2 * HALF + tl.arange(0, BLOCK_REST)[None, :]
    is_there_Nr = (head_N1 < NUM_HEADS) & (column_1r < HALF)
    is_there_Nh = (head_N1 < NUM_HEADS) & (column_1h < WIDTH)
    x_N1, y_N1 = x + head_N1 * stride, y + head_N1 * Y_STRIDE
    first_Nr = tl.load(x_N1 + column_1r, mask=is_there_Nr, other=0.0).to(tl.float32)
    second_Nr = tl.load(x_N1 + HALF + column_1r, mask=is_there_Nr, other=0.0).to(tl.float32)
    rest_Nh = tl.load(x_N1 + column_1h, mask=is_there_Nh, other=0.0).to(tl.float32)
    if HAS_NORM:
        square_N = tl.sum(first_Nr * first_Nr, 1) + tl.sum(second_Nr * second_Nr, 1)
        square_N += tl.sum(rest_Nh * rest_Nh, 1)
        scale_N1 = tl.rsqrt(square_N / WIDTH + eps)[:, None]
        is_rotary_1r, is_rest_1h = column_1r < HALF, column_1h < WIDTH
        weight_1r = tl.load(weight + column_1r, mask=is_rotary_1r, other=0.0).to(tl.float32)
        first_Nr = (first_Nr * scale_N1 * weight_1r).to(dtype).to(tl.float32)
        weight_1r = tl.load(weight + HALF + column_1r, mask=is_rotary_1r, other=0.0).to(tl.float32)
        second_Nr = (second_Nr * scale_N1 * weight_1r).to(dtype).to(tl.float32)
        weight_1h = tl.load(weight + column_1h, mask=is_rest_1h, other=0.0).to(tl.float32)
        rest_Nh = rest_Nh * scale_N1 * weight_1h
    new_first_Nr = first_Nr * cos_r[None, :] - second_Nr * sin_r[None, :]
    new_second_Nr = second_Nr * cos_r[None, :] + first_Nr * sin_r[None, :]
    is_kept_Nr, is_kept_Nh = is_there_Nr & is_kept, is_there_Nh & is_kept
    _put(y_N1 + column_1r, new_first_Nr.to(dtype), is_kept_Nr, inverse_scale, LARGEST)
    _put(y_N1 + HALF + column_1r, new_second_Nr.to(dtype), is_kept_Nr, inverse_scale, LARGEST)
    _put(y_N1 + column_1h, rest_Nh.to(dtype), is_kept_Nh, inverse_scale, LARGEST)


@triton.jit
def _rope_store_kernel(
    qkv: tl.tensor,
    q_norm: tl.tensor,
    k_norm: tl.tensor,
    positions: tl.tensor,
    table: tl.tensor,
    slots: tl.tensor,
    new_q: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    stride_token: tl.tensor,
    stride_head: tl.tensor,
    eps: tl.tensor,
    inverse_key_scale: tl.tensor,
    inverse_value_scale: tl.tensor,
    HAS_Q_NORM: tl.constexpr,
    HAS_K_NORM: tl.constexpr,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    HALF: tl.constexpr,
    PAGE: tl.constexpr,
    LARGEST: tl.constexpr,  # that the cache holds; 0: any
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_r: tl.constexpr,
    BLOCK_REST: tl.constexpr,
) -> None:
    token = tl.program_id(0).to(tl.int64)
    angles = table + tl.load(positions + token) * (2 * HALF)  # the grid ends with the tokens
    column_r = tl.arange(0, BLOCK_r)
    cos_r = tl.load(angles + column_r, mask=column_r < HALF, other=0.0)
    sin_r = tl.load(angles + HALF + column_r, mask=column_r < HALF, other=0.0)
    slot = tl.load(slots + token)
    has_slot = slot >= 0
    place = (slot // PAGE * NUM_KV_HEADS * PAGE + slot % PAGE) * WIDTH
    q = qkv + token * stride_token
    k, v = q + NUM_HEADS * stride_head, q + (NUM_HEADS + NUM_KV_HEADS) * stride_head
    _norm_and_rotate(
        q, stride_head, q_norm, new_q + token * NUM_HEADS * WIDTH, cos_r, sin_r, eps,
        1.0, HAS_Q_NORM, NUM_HEADS, WIDTH, WIDTH, HALF, 0, BLOCK_N, BLOCK_r, BLOCK_REST,
        True,
    )  # fmt: skip
    _norm_and_rotate(
        k, stride_head, k_norm, key + place, cos_r, sin_r, eps, inverse_key_scale,
        HAS_K_NORM, NUM_KV_HEADS, PAGE * WIDTH, WIDTH, HALF, LARGEST, BLOCK_K, BLOCK_r, BLOCK_REST,
        has_slot,
    )  # fmt: skip
    head_K1 = tl.arange(0, BLOCK_K)[:, None].to(tl.int64)
    lane_1H = tl.arange(0, BLOCK_H)[None, :]
    is_there_KH = (head_K1 < NUM_KV_HEADS) & (lane_1H < WIDTH)
    v_KH = tl.load(v + head_K1 * stride_head + lane_1H, mask=is_there_KH, other=0.0)
    is_kept_KH = is_there_KH & has_slot
    value_KH = value + place + head_K1 * (PAGE * WIDTH) + lane_1H
    _put(value_KH, v_KH, is_kept_KH, inverse_value_scale, LARGEST)


def rope_store(
    qkv_TNH: torch.Tensor,
    layer: DecoderLayer,
    positions_T: torch.Tensor,
    cache: KVCache,
    slots_T: torch.Tensor,
    *,
    tuning: Tuning | None = None,
) -> torch.Tensor:
    """Norm and rotate, store keys and values; twin of `llmplug.ops.ComposedRopeStore`.

    Raises:
        KernelInputError: shapes do not fit, the table is not float32, positions or slots are not
            int64.
    """
    num_heads, num_kv_heads, width = layer.num_heads, layer.num_kv_heads, layer.head_width
    if qkv_TNH.dim() != 3 or qkv_TNH.shape[1:] != (num_heads + 2 * num_kv_heads, width):
        raise KernelInputError(
            f"heads of {tuple(qkv_TNH.shape)} for {num_heads} queries and twice {num_kv_heads} "
            f"keys of {width}"
        )
    for norm in (layer.q_norm, layer.k_norm):
        if norm is not None and (norm.shape != (width,) or norm.stride(0) != 1):
            raise KernelInputError(f"a norm of {tuple(norm.shape)} for heads of {width}")
    qkv_TNH = with_dense_rows(qkv_TNH)
    heads = [num_heads, num_kv_heads, num_kv_heads]
    q_TNH, k_TKH, v_TKH = torch.split(qkv_TNH, heads, dim=1)
    check_positions(q_TNH, k_TKH, positions_T, layer.rope_table_CR)
    check_slots(cache, k_TKH, v_TKH, slots_T)
    num_tokens, half = qkv_TNH.shape[0], layer.rope_table_CR.shape[1] // 2
    new_q_TNH = torch.empty(q_TNH.shape, device=q_TNH.device, dtype=q_TNH.dtype)
    if num_tokens == 0:
        return new_q_TNH
    block_N, block_r = round_up_to_power(num_heads), round_up_to_power(half)
    sizes = find_sizes(
        tuning, "rope_store", qkv_TNH.dtype, (num_heads, num_kv_heads, width, 2 * half),
        {"num_warps": count_warps(block_N * block_r)},
    )  # fmt: skip
    _rope_store_kernel[(num_tokens,)](
        qkv_TNH, qkv_TNH if layer.q_norm is None else layer.q_norm,
        qkv_TNH if layer.k_norm is None else layer.k_norm, positions_T.contiguous(),
        layer.rope_table_CR.contiguous(), slots_T.contiguous(), new_q_TNH, cache.key, cache.value,
        qkv_TNH.stride(0), qkv_TNH.stride(1), layer.eps, 1 / cache.key_scale,
        1 / cache.value_scale,
        HAS_Q_NORM=layer.q_norm is not None, HAS_K_NORM=layer.k_norm is not None,
        NUM_HEADS=num_heads, NUM_KV_HEADS=num_kv_heads, WIDTH=width, HALF=half,
        PAGE=cache.page_size, LARGEST=LARGEST.get(cache.key.dtype, 0.0), BLOCK_N=block_N,
        BLOCK_K=round_up_to_power(num_kv_heads), BLOCK_H=round_up_to_power(width),
        BLOCK_r=block_r, BLOCK_REST=round_up_to_power(max(width - 2 * half, 1)),
        num_warps=sizes["num_warps"],
    )  # fmt: skip
    return new_q_TNH


def _list_workloads(sizes: ModelSizes, device: torch.device, dtype: torch.dtype) -> list[Workload]:
    return [
        Workload(
            prepare=partial(_prepare, rows, heads, device, dtype),
            num_bytes=2.0 * rows * (heads[0] + 2 * heads[1]) * heads[2] * dtype.itemsize,
            num_flops=0.0,
        )
        for heads in sizes.heads
        for rows in list_rows(device)
    ]


def _prepare(
    rows: int, heads: tuple[int, int, int], device: torch.device, dtype: torch.dtype, ops: Any
) -> partial[torch.Tensor]:
    """Make a step of one layer with norms of its heads, all of which are rotated."""
    num_heads, num_kv_heads, width = heads
    norm = torch.ones(width, device=device, dtype=dtype)
    layer = DecoderLayer(
        attention_norm=norm, qkv=None, o=None, mlp_norm=norm, gate_up=None, down=None,
        rope_table_CR=make_rope_table(width, 10_000.0, rows).to(device),
        num_heads=num_heads, num_kv_heads=num_kv_heads, head_width=width, scale=1.0, eps=1e-6,
        q_norm=norm, k_norm=norm,
    )  # fmt: skip
    generator = torch.Generator(device).manual_seed(0)
    shape = (rows, num_heads + 2 * num_kv_heads, width)
    qkv_TNH = torch.randn(shape, generator=generator, device=device).to(dtype)
    token_T = torch.arange(rows, device=device)
    page_size = 16
    cache = ops.attention.allocate(
        -(-rows // page_size), page_size, num_kv_heads, width, device=device, dtype=dtype
    )
    return partial(ops.rope_store, qkv_TNH, layer, token_T, cache, token_T)


ROPE_STORE = make_tunable(
    _rope_store_kernel,
    name="rope_store",
    shape_names=("heads", "kv_heads", "head_width", "rotary_width"),
    candidates=_CANDIDATES,
    is_exact=False,
    workloads=_list_workloads,
)
