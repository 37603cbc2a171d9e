"""The op `attention`: softmax(q k^T scale) v over the pages of each sequence.

Decodes are split over chunks of their cached tokens, whose parts a second kernel joins. Prompts are
cut into tiles of queries. Both are loops over tiles of cached tokens that keep a running maximum
and sum (`_attend_tiles`). A tile's rows are tokens x the query heads of one key head, so that a key
is read once for all heads that share it.

Legend: T packed tokens, S sequences, N query heads, K key/value heads, H head width, P page size
(tokens), M rows of a tile (pages a sequence may have, in `block_table_SM`), C cached tokens of a
tile, B parts of a decode.
Sources: https://arxiv.org/abs/2309.06180, section 4.3 (pages); https://arxiv.org/abs/2205.14135
(running softmax)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from llmplug import KernelInputError
from llmplug.ops import AttentionBatch, KVCache
from llmplug_triton.tensors import DTYPES, choose_dot_dtype, round_up_to_power, with_dense_rows

# All sizes below are reasoned, none is measured yet.
# Bytes of keys in a tile, and as many of values: two stages of both leave room for a second program
# on a multiprocessor with 164 KiB of shared memory.
_TILE_BYTES = 16 << 10
_TILE_TOKENS = 64  # at most: a head of 128 numbers of 16 bits
# Cached tokens of one program of a decode. A fixed chunk, not a fixed number of chunks: the order
# of the sums then depends on the sequence's own length alone.
_CHUNK_TOKENS = 256
# Rows of a tile of a prompt, the fewest that Hopper's widest products take. Compiled for Hopper
# with heads of 128 numbers of 16 bits: 185 registers, none spilled, 80 KiB of shared memory.
_PREFILL_ROWS = 64
# The smallest side of a tile that tensor cores multiply.
_MIN_SIDE = 16
# Parts of a decode that are joined at once.
_JOINED_PARTS = 16


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
    NUM_KV_HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    PAGE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + token)  # the grid ends with the tokens
    element = tl.arange(0, BLOCK)
    is_there = element < NUM_KV_HEADS * WIDTH
    head = element // WIDTH
    lane = element % WIDTH
    row = (slot // PAGE * NUM_KV_HEADS + head) * PAGE + slot % PAGE
    new_k = tl.load(k + token * k_stride_token + head * k_stride_head + lane, mask=is_there)
    new_v = tl.load(v + token * v_stride_token + head * v_stride_head + lane, mask=is_there)
    tl.store(key + row * WIDTH + lane, new_k.to(key.dtype.element_ty), mask=is_there)
    tl.store(value + row * WIDTH + lane, new_v.to(value.dtype.element_ty), mask=is_there)


@triton.jit
def _attend_tiles(
    q_MH: tl.tensor,
    first_M: tl.tensor,  # the first cached token that a row sees
    last_M: tl.tensor,  # the last; -1: the row is padding
    start: tl.tensor,  # cached tokens start..stop are walked
    stop: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    pages: tl.tensor,  # the sequence's row of the block table
    kv_head: tl.tensor,
    scale: tl.tensor,  # times log2(e), as exp2 is what the hardware has
    NUM_KV_HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    PAGE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_C: tl.constexpr,
    DTYPE: tl.constexpr,
) -> Any:
    lane_1H = tl.arange(0, BLOCK_H)[None, :]
    max_M = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    sum_M = tl.zeros((BLOCK_M,), tl.float32)
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
        scores_MC = tl.dot(q_MH, tl.trans(k_CH), input_precision="ieee") * scale
        is_seen_MC = (token_C[None, :] >= first_M[:, None]) & (token_C[None, :] <= last_M[:, None])
        is_seen_MC &= is_cached_C[None, :]
        scores_MC = tl.where(is_seen_MC, scores_MC, float("-inf"))
        new_max_M = tl.maximum(max_M, tl.max(scores_MC, 1))
        # A row that has seen no token yet: inf - inf would be NaN.
        shift_M = tl.where(new_max_M == float("-inf"), 0.0, new_max_M)
        weight_MC = tl.exp2(scores_MC - shift_M[:, None])
        decay_M = tl.exp2(max_M - shift_M)
        sum_M = sum_M * decay_M + tl.sum(weight_MC, 1)
        tile_MH = tl.dot(weight_MC.to(DTYPE), v_CH, input_precision="ieee")
        out_MH = out_MH * decay_M[:, None] + tile_MH
        max_M = new_max_M
    return max_M, sum_M, out_MH


@triton.jit(do_not_specialize=["num_chunks"])
def _decode_kernel(
    q: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    cached_lens: tl.tensor,
    block_table: tl.tensor,
    part_max: tl.tensor,  # (S, N, B)
    part_sum: tl.tensor,
    part_out: tl.tensor,  # (S, N, B, H), not yet divided by the sums
    q_stride_token: tl.tensor,
    q_stride_head: tl.tensor,
    table_stride: tl.tensor,
    num_chunks: tl.tensor,
    scale: tl.tensor,
    WINDOW: tl.constexpr,
    GROUP: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    PAGE: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_C: tl.constexpr,
    DTYPE: tl.constexpr,
) -> None:
    sequence = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1).to(tl.int64)
    chunk = tl.program_id(2)
    num_cached = tl.load(cached_lens + sequence)  # the grid ends with the decodes
    first = tl.maximum(num_cached - WINDOW, 0) if WINDOW > 0 else num_cached * 0
    start = first + chunk * CHUNK
    if start < num_cached:
        row_M = tl.arange(0, BLOCK_M)
        lane_1H = tl.arange(0, BLOCK_H)[None, :]
        is_row_M = row_M < GROUP
        is_there_MH = is_row_M[:, None] & (lane_1H < WIDTH)
        head_M = kv_head * GROUP + row_M
        q_token = q + sequence * q_stride_token  # decodes come first: token s is sequence s
        q_MH = tl.load(q_token + head_M[:, None] * q_stride_head + lane_1H, is_there_MH, other=0.0)
        max_M, sum_M, out_MH = _attend_tiles(
            q_MH.to(DTYPE), row_M * 0, tl.where(is_row_M, num_cached - 1, -1),
            start, tl.minimum(start + CHUNK, num_cached), key, value,
            block_table + sequence * table_stride, kv_head, scale,
            NUM_KV_HEADS, WIDTH, PAGE, BLOCK_M, BLOCK_H, BLOCK_C, DTYPE,
        )  # fmt: skip
        part_M = (sequence * NUM_KV_HEADS * GROUP + head_M) * num_chunks + chunk
        tl.store(part_max + part_M, max_M, mask=is_row_M)
        tl.store(part_sum + part_M, sum_M, mask=is_row_M)
        tl.store(part_out + part_M[:, None] * WIDTH + lane_1H, out_MH, mask=is_there_MH)


@triton.jit(do_not_specialize=["num_chunks"])
def _join_kernel(
    part_max: tl.tensor,
    part_sum: tl.tensor,
    part_out: tl.tensor,
    cached_lens: tl.tensor,
    out: tl.tensor,
    num_chunks: tl.tensor,
    WINDOW: tl.constexpr,
    NUM_HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_H: tl.constexpr,
) -> None:
    sequence = tl.program_id(0).to(tl.int64)
    head = sequence * NUM_HEADS + tl.program_id(1)
    num_seen = tl.load(cached_lens + sequence)  # the grid ends with the decodes
    if WINDOW > 0:
        num_seen = tl.minimum(num_seen, WINDOW)
    count = (num_seen + CHUNK - 1) // CHUNK
    lane_H = tl.arange(0, BLOCK_H)
    max_1 = tl.full((1,), float("-inf"), tl.float32)
    sum_1 = tl.zeros((1,), tl.float32)
    out_H = tl.zeros((BLOCK_H,), tl.float32)
    for base in range(0, count, BLOCK_B):
        chunk_B = base + tl.arange(0, BLOCK_B)
        is_part_B = chunk_B < count
        part_B = head * num_chunks + chunk_B
        is_there_BH = is_part_B[:, None] & (lane_H < WIDTH)[None, :]
        max_B = tl.load(part_max + part_B, mask=is_part_B, other=float("-inf"))
        sum_B = tl.load(part_sum + part_B, mask=is_part_B, other=0.0)
        offset_BH = part_B[:, None] * WIDTH + lane_H[None, :]
        out_BH = tl.load(part_out + offset_BH, mask=is_there_BH, other=0.0)
        new_max_1 = tl.maximum(max_1, tl.max(max_B, 0, keep_dims=True))
        weight_B = tl.exp2(max_B - new_max_1)
        decay_1 = tl.exp2(max_1 - new_max_1)
        sum_1 = sum_1 * decay_1 + tl.sum(sum_B * weight_B, 0, keep_dims=True)
        out_H = out_H * decay_1 + tl.sum(out_BH * weight_B[:, None], 0)
        max_1 = new_max_1
    out_H = (out_H / sum_1).to(out.dtype.element_ty)
    tl.store(out + head * WIDTH + lane_H, out_H, mask=lane_H < WIDTH)


@triton.jit
def _prefill_kernel(
    q: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    tiles: tl.tensor,  # of each tile: its sequence, and its first query within the sequence
    query_starts: tl.tensor,
    cached_lens: tl.tensor,
    block_table: tl.tensor,
    out: tl.tensor,
    q_stride_token: tl.tensor,
    q_stride_head: tl.tensor,
    table_stride: tl.tensor,
    scale: tl.tensor,
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
    _, sum_M, out_MH = _attend_tiles(
        tl.load(q_MH, mask=is_there_MH, other=0.0).to(DTYPE), first_M, last_M,
        start, tl.minimum(num_past + first_query + TILE_QUERIES, num_cached), key, value,
        block_table + sequence * table_stride, kv_head, scale,
        NUM_KV_HEADS, WIDTH, PAGE, BLOCK_M, BLOCK_H, BLOCK_C, DTYPE,
    )  # fmt: skip
    out_MH = out_MH / tl.where(is_row_M, sum_M, 1.0)[:, None]
    offset_MH = (token_M * (NUM_KV_HEADS * GROUP) + head_M)[:, None] * WIDTH + lane_1H
    tl.store(out + offset_MH, out_MH.to(out.dtype.element_ty), mask=is_there_MH)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What all layers of a step share."""

    num_chunks: int  # of the decode that sees the most tokens
    tiles: torch.Tensor  # int32 (tiles, 2): sequence, first query


class PagedAttention:
    """Twin of `llmplug.ops.PagedAttention`, with its layout: keys and values [pages, K, P, H].

    The cache may be float32, bfloat16 or float16, whatever the queries are; keys and values are
    multiplied in the dtype of the queries and summed in float32.
    """

    def allocate(
        self,
        num_pages: int,
        page_size: int,
        num_kv_heads: int,
        head_width: int,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> KVCache:
        """Make one layer's cache, zeroed; the engine owns it and drops it."""
        if dtype not in DTYPES:
            raise KernelInputError(f"no cache of {dtype}: float32, bfloat16 or float16")
        shape = (num_pages, num_kv_heads, page_size, head_width)
        return KVCache(
            key=torch.zeros(shape, device=device, dtype=dtype),
            value=torch.zeros(shape, device=device, dtype=dtype),
            page_size=page_size,
        )

    def store(
        self, cache: KVCache, k_TKH: torch.Tensor, v_TKH: torch.Tensor, slots_T: torch.Tensor
    ) -> None:
        """Write new keys (already rotated) and values into their slots, rounded to the cache."""
        num_kv_heads, page_size, width = cache.key.shape[1:]
        if k_TKH.shape != v_TKH.shape or k_TKH.shape[1:] != (num_kv_heads, width):
            raise KernelInputError(
                f"keys of {tuple(k_TKH.shape)} and values of {tuple(v_TKH.shape)} "
                f"for a cache of {num_kv_heads} heads of {width}"
            )
        num_tokens = k_TKH.shape[0]
        if slots_T.dtype is not torch.int64 or slots_T.shape != (num_tokens,):
            raise KernelInputError(f"{num_tokens} tokens need as many int64 slots")
        if num_tokens == 0:
            return
        k_TKH, v_TKH = with_dense_rows(k_TKH), with_dense_rows(v_TKH)
        _store_kernel[(num_tokens,)](
            k_TKH, v_TKH, slots_T.contiguous(), cache.key, cache.value,
            k_TKH.stride(0), k_TKH.stride(1), v_TKH.stride(0), v_TKH.stride(1),
            NUM_KV_HEADS=num_kv_heads, WIDTH=width, PAGE=page_size,
            BLOCK=round_up_to_power(num_kv_heads * width),
        )  # fmt: skip

    def attend(
        self,
        q_TNH: torch.Tensor,
        cache: KVCache,
        batch: AttentionBatch,
        *,
        scale: float,
        window: int | None = None,
    ) -> torch.Tensor:
        """Attend each new token to the cached tokens of its own sequence, causally.

        Raises:
            KernelInputError: heads do not fit the cache, queries are of another dtype than
                float32, bfloat16 and float16, or the batch's tensors are not dense int32.
        """
        _check(q_TNH, cache, batch)
        q_TNH = with_dense_rows(q_TNH)
        num_heads, width = q_TNH.shape[1:]
        num_kv_heads = cache.key.shape[1]
        group = num_heads // num_kv_heads
        prefill_rows = round_up_to_power(group, _PREFILL_ROWS)
        key = ("triton", prefill_rows // group, window)
        plan = batch.plans.get(key)
        if plan is None:
            plan = batch.plans[key] = _plan(batch, prefill_rows // group, window)
        block_H = round_up_to_power(width, _MIN_SIDE)
        tile_tokens = _TILE_BYTES // (block_H * q_TNH.dtype.itemsize)
        sizes = {
            "WINDOW": window or 0,
            "GROUP": group,
            "NUM_KV_HEADS": num_kv_heads,
            "WIDTH": width,
            "PAGE": cache.page_size,
            "BLOCK_H": block_H,
            "BLOCK_C": min(max(tile_tokens, _MIN_SIDE), _TILE_TOKENS),
            "DTYPE": choose_dot_dtype(q_TNH.dtype, _decode_kernel),
        }
        out_TNH = torch.empty(q_TNH.shape, device=q_TNH.device, dtype=q_TNH.dtype)
        scale *= math.log2(math.e)
        if batch.num_decodes > 0:
            _attend_decodes(q_TNH, cache, batch, plan, out_TNH, scale, sizes)
        if len(plan.tiles) > 0:
            _prefill_kernel[(len(plan.tiles), num_kv_heads)](
                q_TNH, cache.key, cache.value, plan.tiles, batch.query_starts_S1,
                batch.cached_lens_S, batch.block_table_SM, out_TNH, q_TNH.stride(0),
                q_TNH.stride(1), batch.block_table_SM.stride(0), scale,
                BLOCK_M=prefill_rows, num_warps=4, num_stages=2, **sizes,
            )  # fmt: skip
        return out_TNH


def _attend_decodes(
    q_TNH: torch.Tensor,
    cache: KVCache,
    batch: AttentionBatch,
    plan: _Plan,
    out_TNH: torch.Tensor,
    scale: float,
    sizes: dict[str, Any],
) -> None:
    """Attend the chunks of all decodes, then join the parts of each."""
    num_heads, width = q_TNH.shape[1:]
    shape = (batch.num_decodes, num_heads, plan.num_chunks)
    part_max, part_sum = torch.empty((2, *shape), device=q_TNH.device, dtype=torch.float32)
    part_out = torch.empty((*shape, width), device=q_TNH.device, dtype=torch.float32)
    _decode_kernel[(batch.num_decodes, sizes["NUM_KV_HEADS"], plan.num_chunks)](
        q_TNH, cache.key, cache.value, batch.cached_lens_S, batch.block_table_SM,
        part_max, part_sum, part_out, q_TNH.stride(0), q_TNH.stride(1),
        batch.block_table_SM.stride(0), plan.num_chunks, scale,
        CHUNK=_CHUNK_TOKENS, BLOCK_M=round_up_to_power(sizes["GROUP"], _MIN_SIDE),
        num_warps=4, num_stages=2, **sizes,
    )  # fmt: skip
    _join_kernel[(batch.num_decodes, num_heads)](
        part_max, part_sum, part_out, batch.cached_lens_S, out_TNH, plan.num_chunks,
        WINDOW=sizes["WINDOW"], NUM_HEADS=num_heads, WIDTH=width, CHUNK=_CHUNK_TOKENS,
        BLOCK_B=_JOINED_PARTS, BLOCK_H=sizes["BLOCK_H"],
    )  # fmt: skip


def _plan(batch: AttentionBatch, tile_queries: int, window: int | None) -> _Plan:
    seen = [min(n, window or n) for n in batch.cached_lens[: batch.num_decodes]]
    tiles = [
        (s, first)
        for s in range(batch.num_decodes, len(batch.query_lens))
        for first in range(0, batch.query_lens[s], tile_queries)
    ]
    return _Plan(
        num_chunks=-(-max(seen, default=0) // _CHUNK_TOKENS),
        tiles=torch.tensor(tiles, dtype=torch.int32, device=batch.cached_lens_S.device),
    )


def _check(q_TNH: torch.Tensor, cache: KVCache, batch: AttentionBatch) -> None:
    num_kv_heads, _, width = cache.key.shape[1:]
    if q_TNH.dim() != 3 or q_TNH.shape[2] != width or q_TNH.shape[1] % num_kv_heads:
        raise KernelInputError(
            f"queries of {tuple(q_TNH.shape)} for a cache of {num_kv_heads} heads of {width}"
        )
    if q_TNH.dtype not in DTYPES:
        raise KernelInputError(f"no queries of {q_TNH.dtype}: float32, bfloat16 or float16")
    if q_TNH.shape[0] != sum(batch.query_lens):
        raise KernelInputError(
            f"{q_TNH.shape[0]} queries for a batch of {sum(batch.query_lens)} tokens"
        )
    for tensor in (batch.query_starts_S1, batch.cached_lens_S, batch.block_table_SM):
        if tensor.dtype is not torch.int32 or tensor.stride(-1) != 1:
            raise KernelInputError(
                "the batch's starts, lengths and block table must be dense int32"
            )
