"""The op `text_attention`: tiles of queries of one head, each over the keys of its own text.

Texts are packed without padding; queries, keys and values are read where they are, within a joined
projection. A tile walks keys from a place that is counted from its own text's start, so that what a
text is packed with changes nothing. The running softmax is that of `attention_tiles.py`.

Legend: T packed tokens, N texts, H heads, W head width, M rows of a tile, C keys of a tile.
Source: https://arxiv.org/abs/2205.14135 (running softmax)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain, pairwise

import torch
import triton
import triton.language as tl

from llmplug import KernelInputError
from llmplug.ops import TextStarts, send_to_device
from llmplug_triton.attention_tiles import count_tile_tokens, weigh_tile
from llmplug_triton.tensors import (
    DTYPES,
    MIN_SIDE,
    choose_dot_dtype,
    round_up_to_power,
    with_dense_rows,
)

# Rows of a tile, as prompts have them. Reasoned, not measured yet.
_ROWS = 64
_TILES = ("triton", "tiles")  # in the plans of TextStarts


@triton.jit
def _text_attention_kernel(
    q: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    tiles: tl.tensor,  # of each tile: its text's first token and end, and its own first token
    out: tl.tensor,
    q_stride_token: tl.tensor,
    q_stride_head: tl.tensor,
    k_stride_token: tl.tensor,
    k_stride_head: tl.tensor,
    v_stride_token: tl.tensor,
    v_stride_head: tl.tensor,
    scale: tl.tensor,
    NUM_HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    REACH: tl.constexpr,  # tokens that are seen on either side; -1: all
    BLOCK_M: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    DTYPE: tl.constexpr,
) -> None:
    tile = tl.program_id(0).to(tl.int64)  # the grid ends with the tiles and the heads
    head = tl.program_id(1).to(tl.int64)
    text_start, text_end = tl.load(tiles + tile * 3), tl.load(tiles + tile * 3 + 1)
    first_query = tl.load(tiles + tile * 3 + 2)
    lane_1W = tl.arange(0, BLOCK_W)[None, :]
    query_M = first_query + tl.arange(0, BLOCK_M)
    is_there_MW = (query_M < text_end)[:, None] & (lane_1W < WIDTH)
    query_M1 = query_M.to(tl.int64)[:, None]
    q_MW = q + query_M1 * q_stride_token + head * q_stride_head + lane_1W
    q_MW = tl.load(q_MW, mask=is_there_MW, other=0.0).to(DTYPE)
    start, stop = text_start, text_end
    if REACH >= 0:
        start = tl.maximum(text_start, first_query - REACH)
        stop = tl.minimum(text_end, first_query + BLOCK_M + REACH)
    max_M = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    sum_M = tl.zeros((BLOCK_M,), tl.float32)
    out_MW = tl.zeros((BLOCK_M, BLOCK_W), tl.float32)
    for base in range(start, stop, BLOCK_C):
        token_C = base + tl.arange(0, BLOCK_C)
        is_there_CW = (token_C < stop)[:, None] & (lane_1W < WIDTH)
        token_C1 = token_C.to(tl.int64)[:, None]
        k_CW = key + token_C1 * k_stride_token + head * k_stride_head + lane_1W
        v_CW = value + token_C1 * v_stride_token + head * v_stride_head + lane_1W
        is_seen_MC = (query_M < text_end)[:, None] & (token_C < stop)[None, :]
        if REACH >= 0:
            distance_MC = query_M[:, None] - token_C[None, :]
            is_seen_MC &= (distance_MC <= REACH) & (distance_MC >= -REACH)
        max_M, sum_M, out_MW = weigh_tile(
            q_MW, tl.load(k_CW, mask=is_there_CW, other=0.0).to(DTYPE),
            tl.load(v_CW, mask=is_there_CW, other=0.0).to(DTYPE), is_seen_MC,
            max_M, sum_M, out_MW, scale, 1.0, False, DTYPE,
        )  # fmt: skip
    out_MW = out_MW / tl.where(query_M < text_end, sum_M, 1.0)[:, None]
    place_MW = (query_M1 * NUM_HEADS + head) * WIDTH + lane_1W
    tl.store(out + place_MW, out_MW.to(out.dtype.element_ty), mask=is_there_MW)


def text_attention(
    query_THW: torch.Tensor,
    key_THW: torch.Tensor,
    value_THW: torch.Tensor,
    starts: Sequence[int],
    *,
    scale: float,
    window: int | None = None,
) -> torch.Tensor:
    """Let every token of a text look at all tokens of that text.

    Twin of `llmplug.ops.text_attention`.

    Raises:
        KernelInputError: queries, keys and values are not alike or of another dtype than float32,
            bfloat16 and float16, or texts are not those of the tokens.
    """
    _check(query_THW, key_THW, value_THW, starts)
    out_THW = torch.empty(query_THW.shape, device=query_THW.device, dtype=query_THW.dtype)
    if out_THW.numel() == 0:
        return out_THW
    query_THW, key_THW, value_THW = map(with_dense_rows, (query_THW, key_THW, value_THW))
    num_heads, width = query_THW.shape[1:]
    tiles = _find_tiles(starts, query_THW.device)
    block_W = round_up_to_power(width, MIN_SIDE)
    _text_attention_kernel[(len(tiles), num_heads)](
        query_THW, key_THW, value_THW, tiles, out_THW, query_THW.stride(0), query_THW.stride(1),
        key_THW.stride(0), key_THW.stride(1), value_THW.stride(0), value_THW.stride(1),
        scale * math.log2(math.e),
        NUM_HEADS=num_heads, WIDTH=width, REACH=-1 if window is None else window, BLOCK_M=_ROWS,
        BLOCK_W=block_W, BLOCK_C=count_tile_tokens(block_W, query_THW.dtype.itemsize),
        DTYPE=choose_dot_dtype(query_THW.dtype), num_warps=4, num_stages=2,
    )  # fmt: skip
    return out_THW


def _find_tiles(starts: Sequence[int], device: torch.device) -> torch.Tensor:
    """Return the tiles of texts, int32 (tiles, 3): those that a layer before has sent, if any."""
    plans = starts.plans if isinstance(starts, TextStarts) else {}
    tiles: torch.Tensor | None = plans.get(_TILES)
    if tiles is None:
        numbers = list(chain.from_iterable(_cut_into_tiles(starts)))
        tiles = plans[_TILES] = send_to_device(numbers, device, torch.int32).view(-1, 3)
    return tiles


def _cut_into_tiles(starts: Sequence[int]) -> list[tuple[int, int, int]]:
    """Cut texts into tiles of queries: (first token and end of its text, its own first token)."""
    return [
        (start, end, first) for start, end in pairwise(starts) for first in range(start, end, _ROWS)
    ]


def _check(
    query_THW: torch.Tensor,
    key_THW: torch.Tensor,
    value_THW: torch.Tensor,
    starts: Sequence[int],
) -> None:
    shape, dtype = query_THW.shape, query_THW.dtype
    for x_THW in (query_THW, key_THW, value_THW):
        if x_THW.dim() != 3 or x_THW.shape != shape or x_THW.dtype != dtype or dtype not in DTYPES:
            raise KernelInputError(
                "queries, keys and values are alike, in float32, bfloat16 or float16, not "
                f"{dtype} {tuple(shape)} and {x_THW.dtype} {tuple(x_THW.shape)}"
            )
    if (starts[0], starts[-1]) != (0, shape[0]) or any(a > b for a, b in pairwise(starts)):
        raise KernelInputError(f"texts of {shape[0]} tokens cannot start at {list(starts)}")
