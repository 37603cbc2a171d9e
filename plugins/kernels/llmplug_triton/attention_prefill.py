"""Attention of prompts: tiles of queries, each over all cached tokens that one of them sees.

Legend: T packed tokens, S sequences, N query heads, K key/value heads, H head width, P page size
(tokens), M rows of a tile, C cached tokens of a tile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import triton
import triton.language as tl

from llmplug_triton.attention_tiles import attend_tiles
from llmplug_triton.tensors import round_up_to_power
from llmplug_triton.tuning import cross, make_tunable

if TYPE_CHECKING:
    import torch

    from llmplug.ops import AttentionBatch, KVCache, Sizes, Tunable

# Rows of a tile, the fewest that Hopper's widest products take. Compiled for Hopper with heads of
# 128 numbers of 16 bits: 185 registers, none spilled, 80 KiB of shared memory.
ROWS = 64
_CANDIDATES = cross(BLOCK_M=(64, 128), BLOCK_C=(32, 64, 128), num_warps=(4, 8), num_stages=(2, 3))


@triton.jit
def _prefill_kernel(
    q: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    tiles: tl.tensor,  # of each tile: its sequence, and its first query within the sequence
    query_starts: tl.tensor,
    cached_lens: tl.tensor,
    block_table: tl.tensor,
    sinks: tl.tensor,
    out: tl.tensor,
    q_stride_token: tl.tensor,
    q_stride_head: tl.tensor,
    table_stride: tl.tensor,
    scale: tl.tensor,
    value_scale: tl.tensor,
    cap: tl.tensor,
    HAS_CAP: tl.constexpr,
    HAS_SINKS: tl.constexpr,
    WINDOW: tl.constexpr,
    GROUP: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    PAGE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_C: tl.constexpr,
    DTYPE: tl.constexpr,
) -> None:
    tile = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1).to(tl.int64)
    # These are within bounds: the grid ends with the tiles.
    sequence = tl.load(tiles + tile * 2).to(tl.int64)
    first_query = tl.load(tiles + tile * 2 + 1)
    query_start = tl.load(query_starts + sequence)
    num_queries = tl.load(query_starts + sequence + 1) - query_start
    num_cached = tl.load(cached_lens + sequence)
    num_past = num_cached - num_queries

    TILE_QUERIES: tl.constexpr = BLOCK_M // GROUP
    row_M = tl.arange(0, BLOCK_M)
    lane_1H = tl.arange(0, BLOCK_H)[None, :]
    query_M = first_query + row_M // GROUP
    head_M = kv_head * GROUP + row_M % GROUP
    is_row_M = (row_M < TILE_QUERIES * GROUP) & (query_M < num_queries)
    is_there_MH = is_row_M[:, None] & (lane_1H < WIDTH)
    token_M = (query_start + query_M).to(tl.int64)
    q_MH = q + token_M[:, None] * q_stride_token + head_M[:, None] * q_stride_head + lane_1H
    last_M = tl.where(is_row_M, num_past + query_M, -1)
    first_M = row_M * 0
    start = num_cached * 0
    if WINDOW > 0:
        first_M = last_M - (WINDOW - 1)
        start = tl.maximum(num_past + first_query - (WINDOW - 1), 0)
    max_M = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    sum_M = tl.zeros((BLOCK_M,), tl.float32)
    if HAS_SINKS:  # a token with this score, whose value is 0
        max_M = tl.load(sinks + head_M, mask=is_row_M, other=0.0).to(tl.float32)
        max_M *= 1.4426950408889634
        sum_M += 1.0
    _, sum_M, out_MH = attend_tiles(
        tl.load(q_MH, mask=is_there_MH, other=0.0).to(DTYPE), max_M, sum_M, first_M, last_M,
        start, tl.minimum(num_past + first_query + TILE_QUERIES, num_cached), key, value,
        block_table + sequence * table_stride, kv_head, scale, value_scale,
        cap, HAS_CAP, NUM_KV_HEADS, WIDTH, PAGE, BLOCK_M, BLOCK_H, BLOCK_C, DTYPE,
    )  # fmt: skip
    out_MH = out_MH / tl.where(is_row_M, sum_M, 1.0)[:, None]
    offset_MH = (token_M * (NUM_KV_HEADS * GROUP) + head_M)[:, None] * WIDTH + lane_1H
    tl.store(out + offset_MH, out_MH.to(out.dtype.element_ty), mask=is_there_MH)


def count_rows(group: int, rows: int) -> int:
    """Return the rows of a tile, at least `rows`, for so many query heads of a key head."""
    return round_up_to_power(group, rows)


def attend_prompts(
    q_TNH: torch.Tensor,
    cache: KVCache,
    batch: AttentionBatch,
    tiles: torch.Tensor,
    out_TNH: torch.Tensor,
    sinks_N: torch.Tensor | None,
    settings: dict[str, Any],
    sizes: Sizes,
) -> None:
    """Attend tiles of queries.

    Args:
        tiles: int32 (tiles, 2): sequence, first query of it.
        settings: what both kernels of attention are told.
        sizes: as in `_CANDIDATES`; the rows of a tile as `count_rows` returns them.
    """
    _prefill_kernel[(len(tiles), settings["NUM_KV_HEADS"])](
        q_TNH, cache.key, cache.value, tiles, batch.query_starts_S1, batch.cached_lens_S,
        batch.block_table_SM, q_TNH if sinks_N is None else sinks_N, out_TNH, q_TNH.stride(0),
        q_TNH.stride(1), batch.block_table_SM.stride(0), HAS_SINKS=sinks_N is not None,
        **settings, **sizes,
    )  # fmt: skip


def make_prefill_tunable(**fields: Any) -> Tunable:
    """Describe the free parameters; `attention_workloads.py` has what they are tried on."""
    return make_tunable(
        _prefill_kernel, name="prefill", candidates=_CANDIDATES, is_exact=False, **fields
    )
