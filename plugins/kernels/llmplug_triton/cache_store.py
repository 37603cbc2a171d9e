"""Writing new keys and values into their slots of a cache, rounded to its numbers.

Legend: T packed tokens, K key/value heads, H head width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from llmplug import KernelInputError
from llmplug_triton.tensors import round_up_to_power, with_dense_rows

if TYPE_CHECKING:
    from llmplug.ops import KVCache

# The greatest number of a cache whose numbers have no infinity.
LARGEST = {torch.float8_e4m3fn: 448.0}


# Numbers of keys, and as many of values, that a program takes: few tokens with wide heads, or many
# with narrow ones. Reasoned, not measured yet.
_BLOCK = 4096


@triton.jit
def _store_kernel(
    k: tl.tensor,
    v: tl.tensor,
    slots: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    k_stride_token: tl.tensor,
    k_stride_head: tl.tensor,
    v_stride_token: tl.tensor,
    v_stride_head: tl.tensor,
    num_tokens: tl.tensor,
    inverse_key_scale: tl.tensor,  # read only if LARGEST
    inverse_value_scale: tl.tensor,
    NUM_KV_HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    PAGE: tl.constexpr,
    LARGEST: tl.constexpr,  # that the cache holds; 0: any
    BLOCK_T: tl.constexpr,
    BLOCK_E: tl.constexpr,  # all numbers of a token
) -> None:
    token_T = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    slot_T1 = tl.load(slots + token_T, mask=token_T < num_tokens, other=-1)[:, None]
    token_T1 = token_T[:, None]
    element_1E = tl.arange(0, BLOCK_E)[None, :]
    is_there = (element_1E < NUM_KV_HEADS * WIDTH) & (slot_T1 >= 0)
    head_1E = element_1E // WIDTH
    lane_1E = element_1E % WIDTH
    k_TE = k + token_T1 * k_stride_token + head_1E * k_stride_head + lane_1E
    v_TE = v + token_T1 * v_stride_token + head_1E * v_stride_head + lane_1E
    new_k_TE = tl.load(k_TE, mask=is_there)
    new_v_TE = tl.load(v_TE, mask=is_there)
    if LARGEST > 0:  # NaN stays NaN
        all_nan: tl.constexpr = tl.PropagateNan.ALL
        new_k_TE = new_k_TE.to(tl.float32) * inverse_key_scale
        new_v_TE = new_v_TE.to(tl.float32) * inverse_value_scale
        new_k_TE = tl.clamp(new_k_TE, -LARGEST, LARGEST, propagate_nan=all_nan)
        new_v_TE = tl.clamp(new_v_TE, -LARGEST, LARGEST, propagate_nan=all_nan)
    row_TE = (slot_T1 // PAGE * NUM_KV_HEADS + head_1E) * PAGE + slot_T1 % PAGE
    place_TE = row_TE * WIDTH + lane_1E
    tl.store(key + place_TE, new_k_TE.to(key.dtype.element_ty), mask=is_there)
    tl.store(value + place_TE, new_v_TE.to(value.dtype.element_ty), mask=is_there)


def store_in_cache(
    cache: KVCache, k_TKH: torch.Tensor, v_TKH: torch.Tensor, slots_T: torch.Tensor
) -> None:
    """Write new keys (already rotated) and values into their slots; -1 is no slot.

    Raises:
        KernelInputError: heads do not fit the cache, or slots are not as many int64 as tokens.
    """
    check_slots(cache, k_TKH, v_TKH, slots_T)
    num_kv_heads, page_size, width = cache.key.shape[1:]
    num_tokens = k_TKH.shape[0]
    if num_tokens == 0:
        return
    k_TKH, v_TKH = with_dense_rows(k_TKH), with_dense_rows(v_TKH)
    block_E = round_up_to_power(num_kv_heads * width)
    block_T = max(1, min(_BLOCK // block_E, round_up_to_power(num_tokens)))
    _store_kernel[(triton.cdiv(num_tokens, block_T),)](
        k_TKH, v_TKH, slots_T.contiguous(), cache.key, cache.value,
        k_TKH.stride(0), k_TKH.stride(1), v_TKH.stride(0), v_TKH.stride(1), num_tokens,
        1 / cache.key_scale, 1 / cache.value_scale,
        NUM_KV_HEADS=num_kv_heads, WIDTH=width, PAGE=page_size,
        LARGEST=LARGEST.get(cache.key.dtype, 0.0), BLOCK_T=block_T, BLOCK_E=block_E,
    )  # fmt: skip


def check_slots(
    cache: KVCache, k_TKH: torch.Tensor, v_TKH: torch.Tensor, slots_T: torch.Tensor
) -> None:
    """Raise KernelInputError unless these keys and values can be stored."""
    num_kv_heads, width = cache.key.shape[1], cache.key.shape[3]
    if k_TKH.shape != v_TKH.shape or k_TKH.shape[1:] != (num_kv_heads, width):
        raise KernelInputError(
            f"keys of {tuple(k_TKH.shape)} and values of {tuple(v_TKH.shape)} "
            f"for a cache of {num_kv_heads} heads of {width}"
        )
    num_tokens = k_TKH.shape[0]
    if slots_T.dtype is not torch.int64 or slots_T.shape != (num_tokens,):
        raise KernelInputError(f"{num_tokens} tokens need as many int64 slots")
