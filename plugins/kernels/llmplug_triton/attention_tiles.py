"""A loop over tiles of cached tokens with a running maximum and sum: what all attention shares.

A tile's rows are tokens x the query heads of one key head, so that a key is read once for all heads
that share it. `attend_tiles` walks a cache of pages; whole texts, which have none, are walked by
`text_attention.py`.

Legend: T packed tokens, S sequences, N query heads, K key/value heads, H head width, P page size
(tokens), M rows of a tile, C cached tokens of a tile.
Source: https://arxiv.org/abs/2205.14135 (running softmax)
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from llmplug_triton.tensors import MIN_SIDE

# All sizes are reasoned, none is measured yet.
# Bytes of keys in a tile, and as many of values: two stages of both leave room for a second program
# on a multiprocessor with 164 KiB of shared memory.
_TILE_BYTES = 16 << 10
_TILE_TOKENS = 64  # at most: a head of 128 numbers of 16 bits


def count_tile_tokens(block_H: int, itemsize: int) -> int:
    """Return how many keys a tile has."""
    return min(max(_TILE_BYTES // (block_H * itemsize), MIN_SIDE), _TILE_TOKENS)


@triton.jit
def weigh_tile(
    q_MH: tl.tensor,
    k_CH: tl.tensor,
    v_CH: tl.tensor,
    is_seen_MC: tl.tensor,
    max_M: tl.tensor,  # greatest score so far, -inf where there is none
    sum_M: tl.tensor,  # of the weights so far
    out_MH: tl.tensor,  # weighted values so far, not yet divided
    scale: tl.tensor,  # makes scores for exp2, which is what the hardware has; or for tanh
    cap: tl.tensor,  # multiplies the tanh
    HAS_CAP: tl.constexpr,
    DTYPE: tl.constexpr,
) -> Any:
    """Take one tile of keys and values in: (greatest score, sum, weighted values)."""
    scores_MC = tl.dot(q_MH, tl.trans(k_CH), input_precision="ieee") * scale
    if HAS_CAP:  # tanh(z) = 1 - 2 / (1 + exp(2 z))
        scores_MC = cap * (1.0 - 2.0 / (1.0 + tl.exp(2.0 * scores_MC)))
    scores_MC = tl.where(is_seen_MC, scores_MC, float("-inf"))
    new_max_M = tl.maximum(max_M, tl.max(scores_MC, 1))
    # A row that has seen no token yet: inf - inf would be NaN.
    shift_M = tl.where(new_max_M == float("-inf"), 0.0, new_max_M)
    weight_MC = tl.exp2(scores_MC - shift_M[:, None])
    decay_M = tl.exp2(max_M - shift_M)
    sum_M = sum_M * decay_M + tl.sum(weight_MC, 1)
    tile_MH = tl.dot(weight_MC.to(DTYPE), v_CH, input_precision="ieee")
    return new_max_M, sum_M, out_MH * decay_M[:, None] + tile_MH


@triton.jit
def attend_tiles(
    q_MH: tl.tensor,
    max_M: tl.tensor,  # as in weigh_tile, at the start
    sum_M: tl.tensor,
    first_M: tl.tensor,  # the first cached token that a row sees
    last_M: tl.tensor,  # the last; -1: the row is padding
    start: tl.tensor,  # cached tokens start..stop are walked
    stop: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    pages: tl.tensor,  # the sequence's row of the block table
    kv_head: tl.tensor,
    scale: tl.tensor,  # as in weigh_tile, the keys' included
    value_scale: tl.tensor,
    cap: tl.tensor,
    HAS_CAP: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    PAGE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_C: tl.constexpr,
    DTYPE: tl.constexpr,
) -> Any:
    """Walk cached tokens: (greatest score, sum of weights, weighted values not yet divided)."""
    lane_1H = tl.arange(0, BLOCK_H)[None, :]
    out_MH = tl.zeros((BLOCK_M, BLOCK_H), tl.float32)
    for base in range(start, stop, BLOCK_C):
        token_C = base + tl.arange(0, BLOCK_C)
        is_cached_C = token_C < stop
        page_C = tl.load(pages + token_C // PAGE, mask=is_cached_C, other=0).to(tl.int64)
        row_C = (page_C * NUM_KV_HEADS + kv_head) * PAGE + token_C % PAGE
        offset_CH = row_C[:, None] * WIDTH + lane_1H
        is_there_CH = is_cached_C[:, None] & (lane_1H < WIDTH)
        # Zeros where no token is: what a page holds there may be NaN, and NaN * 0 is NaN.
        k_CH = tl.load(key + offset_CH, mask=is_there_CH, other=0.0).to(DTYPE)
        v_CH = tl.load(value + offset_CH, mask=is_there_CH, other=0.0).to(DTYPE)
        is_seen_MC = (token_C[None, :] >= first_M[:, None]) & (token_C[None, :] <= last_M[:, None])
        max_M, sum_M, out_MH = weigh_tile(
            q_MH, k_CH, v_CH, is_seen_MC & is_cached_C[None, :], max_M, sum_M, out_MH, scale, cap,
            HAS_CAP, DTYPE,
        )  # fmt: skip
    return max_M, sum_M, out_MH * value_scale
