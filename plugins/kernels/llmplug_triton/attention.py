"""The op `attention`: softmax(q k^T scale) v over the pages of each sequence.

Two launches: `attention_decode.py` for sequences with one new token, which shares out the list that
`attention_work.py` makes, `attention_prefill.py` for prompts; `attention_tiles.py` is the loop that
both run, `cache_store.py` fills the cache.

Legend: T packed tokens, S sequences, N query heads, K key/value heads, H head width, P page size
(tokens), M pages a sequence may have.
Source: https://arxiv.org/abs/2309.06180, section 4.3 (pages)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from llmplug import KernelInputError
from llmplug.ops import AttentionBatch, KVCache
from llmplug_triton.attention_decode import CHUNK_TOKENS, attend_decodes, choose_programs
from llmplug_triton.attention_prefill import ROWS, attend_prompts, count_rows
from llmplug_triton.attention_tiles import count_tile_tokens
from llmplug_triton.attention_work import DecodeWork, list_work
from llmplug_triton.cache_store import store_in_cache
from llmplug_triton.tensors import (
    DTYPES,
    MIN_SIDE,
    choose_dot_dtype,
    refuse_gpu_without_fp8,
    round_up_to_power,
    with_dense_rows,
)
from llmplug_triton.tuning import find_sizes

if TYPE_CHECKING:
    from llmplug.ops import Sizes, Tuning

# What the free parameters of both launches are chosen for: nothing that other sequences change.
SHAPE_NAMES = ("group", "head_width", "page_size", "cache_bytes")


@dataclass(frozen=True, slots=True)
class _Plan:
    """What all layers of a step share."""

    work: DecodeWork | None  # None: no decodes
    tiles: torch.Tensor  # int32 (tiles, 2): sequence, first query


class PagedAttention:
    """Twin of `llmplug.ops.PagedAttention`, with its layout: keys and values [pages, K, P, H].

    The cache may be float32, bfloat16, float16 or float8_e4m3fn, whatever the queries are; keys and
    values are multiplied in the dtype of the queries and summed in float32.
    """

    is_replayable = True

    def __init__(self, tuning: Tuning | None = None) -> None:
        self._tuning = tuning

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
        if dtype is torch.float8_e4m3fn:
            refuse_gpu_without_fp8(device, "cache.dtype to auto")
        elif dtype not in DTYPES:
            raise KernelInputError(f"no cache of {dtype}: float32, bfloat16, float16 or fp8")
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
        store_in_cache(cache, k_TKH, v_TKH, slots_T)

    def attend(
        self,
        q_TNH: torch.Tensor,
        cache: KVCache,
        batch: AttentionBatch,
        *,
        scale: float,
        window: int | None = None,
        soft_cap: float | None = None,
        sinks_N: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attend each new token to the cached tokens of its own sequence, causally.

        Raises:
            KernelInputError: heads or sinks do not fit the cache, queries are of another dtype than
                float32, bfloat16 and float16, or the batch's tensors are not dense int32.
        """
        _check(q_TNH, cache, batch, sinks_N)
        q_TNH = with_dense_rows(q_TNH)
        num_heads, width = q_TNH.shape[1:]
        num_kv_heads = cache.key.shape[1]
        group = num_heads // num_kv_heads
        decode, prefill = self._find_sizes(q_TNH.dtype, group, cache)
        tile_queries = prefill["BLOCK_M"] // group
        key = ("triton", tile_queries, num_kv_heads, decode["CHUNK"], window)
        plan = batch.plans.get(key)
        if plan is None:
            plan = batch.plans[key] = _plan(batch, *key[1:])
        block_H = round_up_to_power(width, MIN_SIDE)
        log2_e = math.log2(math.e)
        scale *= cache.key_scale
        settings = {
            "scale": scale * log2_e if soft_cap is None else scale / soft_cap,
            "value_scale": cache.value_scale,
            "cap": 1.0 if soft_cap is None else soft_cap * log2_e,
            "HAS_CAP": soft_cap is not None,
            "WINDOW": window or 0,
            "GROUP": group,
            "NUM_KV_HEADS": num_kv_heads,
            "WIDTH": width,
            "PAGE": cache.page_size,
            "BLOCK_H": block_H,
            "DTYPE": choose_dot_dtype(q_TNH.dtype),
        }
        out_TNH = torch.empty(q_TNH.shape, device=q_TNH.device, dtype=q_TNH.dtype)
        if plan.work is not None:
            attend_decodes(q_TNH, cache, batch, plan.work, out_TNH, sinks_N, settings, decode)
        if len(plan.tiles) > 0:
            attend_prompts(q_TNH, cache, batch, plan.tiles, out_TNH, sinks_N, settings, prefill)
        return out_TNH

    def _find_sizes(self, dtype: torch.dtype, group: int, cache: KVCache) -> tuple[Sizes, Sizes]:
        """Return the free parameters of both launches."""
        width = cache.key.shape[-1]
        tile = count_tile_tokens(round_up_to_power(width, MIN_SIDE), dtype.itemsize)
        shape = (group, width, cache.page_size, cache.key.dtype.itemsize)
        common = {"BLOCK_C": tile, "num_warps": 4, "num_stages": 2}
        own = {"CHUNK": CHUNK_TOKENS, "PROGRAMS": choose_programs(group, width)}
        decode = find_sizes(self._tuning, "decode", dtype, shape, {**own, **common})
        prefill = find_sizes(self._tuning, "prefill", dtype, shape, {"BLOCK_M": ROWS, **common})
        return decode, {**prefill, "BLOCK_M": count_rows(group, prefill["BLOCK_M"])}


def _plan(
    batch: AttentionBatch, tile_queries: int, num_kv_heads: int, chunk: int, window: int | None
) -> _Plan:
    tiles = [
        (s, first)
        for s in range(batch.num_decodes, len(batch.query_lens))
        for first in range(0, batch.query_lens[s], tile_queries)
    ]
    return _Plan(
        work=list_work(batch, num_kv_heads, chunk, window) if batch.num_decodes > 0 else None,
        # Of decodes alone nothing may come from the host, as their launches are captured.
        tiles=torch.tensor(tiles, dtype=torch.int32, device=batch.cached_lens_S.device)
        if tiles
        else torch.empty((0, 2), dtype=torch.int32, device=batch.cached_lens_S.device),
    )


def _check(
    q_TNH: torch.Tensor, cache: KVCache, batch: AttentionBatch, sinks_N: torch.Tensor | None
) -> None:
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
    if sinks_N is not None and (sinks_N.shape != q_TNH.shape[1:2] or sinks_N.stride(0) != 1):
        raise KernelInputError(f"sinks of {tuple(sinks_N.shape)} for {q_TNH.shape[1]} query heads")
