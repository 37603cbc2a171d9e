"""Attention of decodes: each is split over chunks of its cached tokens, a second kernel joins them.

Legend: T packed tokens, S sequences, N query heads, K key/value heads, H head width, P page size
(tokens), M rows of a tile, C cached tokens of a tile, B parts of a decode.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

from llmplug_triton.attention_tiles import attend_tiles
from llmplug_triton.tensors import MIN_SIDE, round_up_to_power
from llmplug_triton.tuning import cross, make_tunable

if TYPE_CHECKING:
    from llmplug.ops import AttentionBatch, KVCache, Sizes, Tunable

# Cached tokens of one program. A fixed chunk, not a fixed number of chunks: the order of the sums
# then depends on the sequence's own length alone. Reasoned, not measured yet.
CHUNK_TOKENS = 256
_CANDIDATES = cross(
    CHUNK=(128, 256, 512, 1024), BLOCK_C=(32, 64, 128), num_warps=(4, 8), num_stages=(2, 3)
)
# Parts that are joined at once.
_JOINED_PARTS = 16


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
    cap: tl.tensor,
    HAS_CAP: tl.constexpr,
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
        max_M, sum_M, out_MH = attend_tiles(
            q_MH.to(DTYPE), tl.full((BLOCK_M,), float("-inf"), tl.float32),
            tl.zeros((BLOCK_M,), tl.float32), row_M * 0, tl.where(is_row_M, num_cached - 1, -1),
            start, tl.minimum(start + CHUNK, num_cached), key, value,
            block_table + sequence * table_stride, kv_head, scale,
            cap, HAS_CAP, NUM_KV_HEADS, WIDTH, PAGE, BLOCK_M, BLOCK_H, BLOCK_C, DTYPE,
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
    sinks: tl.tensor,
    out: tl.tensor,
    num_chunks: tl.tensor,
    HAS_SINKS: tl.constexpr,
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
    if HAS_SINKS:  # a token with this score, whose value is 0
        sink = tl.load(sinks + tl.program_id(1))  # the grid ends with the heads
        max_1 = tl.full((1,), 0.0, tl.float32) + sink.to(tl.float32) * 1.4426950408889634
        sum_1 += 1.0
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
    out_H = (out_H / tl.where(num_seen > 0, sum_1, 1.0)).to(out.dtype.element_ty)
    tl.store(out + head * WIDTH + lane_H, out_H, mask=lane_H < WIDTH)


def count_chunks(num_tokens: int, chunk: int) -> int:
    """Return how many programs share the cached tokens that a decode sees."""
    return -(-num_tokens // chunk)


def attend_decodes(
    q_TNH: torch.Tensor,
    cache: KVCache,
    batch: AttentionBatch,
    num_chunks: int,
    out_TNH: torch.Tensor,
    sinks_N: torch.Tensor | None,
    settings: dict[str, Any],
    sizes: Sizes,
) -> None:
    """Attend the chunks of all decodes, then join the parts of each.

    Args:
        num_chunks: of the decode that sees the most tokens.
        settings: what both kernels of attention are told.
        sizes: as in `_CANDIDATES`.
    """
    num_heads, width = q_TNH.shape[1:]
    shape = (batch.num_decodes, num_heads, num_chunks)
    part_max, part_sum = torch.empty((2, *shape), device=q_TNH.device, dtype=torch.float32)
    part_out = torch.empty((*shape, width), device=q_TNH.device, dtype=torch.float32)
    _decode_kernel[(batch.num_decodes, settings["NUM_KV_HEADS"], num_chunks)](
        q_TNH, cache.key, cache.value, batch.cached_lens_S, batch.block_table_SM,
        part_max, part_sum, part_out, q_TNH.stride(0), q_TNH.stride(1),
        batch.block_table_SM.stride(0), num_chunks,
        BLOCK_M=round_up_to_power(settings["GROUP"], MIN_SIDE), **settings, **sizes,
    )  # fmt: skip
    _join_kernel[(batch.num_decodes, num_heads)](
        part_max, part_sum, part_out, batch.cached_lens_S,
        part_sum if sinks_N is None else sinks_N, out_TNH, num_chunks,
        HAS_SINKS=sinks_N is not None, WINDOW=settings["WINDOW"], NUM_HEADS=num_heads, WIDTH=width,
        CHUNK=sizes["CHUNK"], BLOCK_B=_JOINED_PARTS, BLOCK_H=settings["BLOCK_H"],
    )  # fmt: skip


def make_decode_tunable(**fields: Any) -> Tunable:
    """Describe the free parameters; `attention_workloads.py` has what they are tried on."""
    return make_tunable(
        _decode_kernel, name="decode", candidates=_CANDIDATES, is_exact=False, **fields
    )
