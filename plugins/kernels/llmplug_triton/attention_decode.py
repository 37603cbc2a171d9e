"""Attention of decodes: one launch whose programs share a list of chunks of cached tokens.

There are as many programs as the GPU runs at once, whatever the step is. Each walks the list
(`attention_work.py`) in strides. A chunk that is all that a sequence has is its result; other
chunks are parts, and who is done last with a part of a sequence and key head joins all of them, in
the order of the chunks: bits do not depend on who that was. Nobody waits for anybody.

Legend: T packed tokens, S sequences, N query heads, K key/value heads, H head width, P page size
(tokens), M rows of a tile, C cached tokens of a tile, G query heads of a key head, B parts of a
decode.
"""

from __future__ import annotations

from functools import cache as remember
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

from llmplug_triton.attention_tiles import attend_tiles
from llmplug_triton.tensors import MIN_SIDE, round_up_to_power
from llmplug_triton.tuning import cross, make_tunable

if TYPE_CHECKING:
    from llmplug.ops import AttentionBatch, KVCache, Sizes, Tunable
    from llmplug_triton.attention_work import DecodeWork

# Cached tokens of one chunk. A fixed length, not a fixed number of chunks: the order of the sums
# then depends on the sequence's own length alone. Reasoned, not measured yet.
CHUNK_TOKENS = 256
_CANDIDATES = cross(
    CHUNK=(128, 256, 512, 1024),
    PROGRAMS=(2, 3, 4),  # of each multiprocessor
    BLOCK_C=(32, 64, 128),
    num_warps=(4, 8),
    num_stages=(2, 3),
)
# Numbers of a key head's queries, in blocks, up to which three programs have the registers of a
# multiprocessor: 168 a thread at most, compiled for Hopper with 4 warps. Beyond it is up to 248.
_SMALL_TILE = 1024
# Parts that are joined at once, and numbers of them: 64 of each thread where there are 4 warps.
_JOINED_PARTS = 16
_JOINED_NUMBERS = 8192


@triton.jit
def _join_parts(
    part_max: tl.tensor,  # of the first head's first part, as the others
    part_sum: tl.tensor,
    part_out: tl.tensor,
    count: tl.tensor,
    most_chunks: tl.tensor,
    GROUP: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_H: tl.constexpr,
) -> Any:
    """Join the parts of a key head's queries: (sum of weights, values not yet divided)."""
    head_G = tl.arange(0, BLOCK_G)
    lane_H = tl.arange(0, BLOCK_H)
    max_G = tl.full((BLOCK_G,), float("-inf"), tl.float32)
    sum_G = tl.zeros((BLOCK_G,), tl.float32)
    out_GH = tl.zeros((BLOCK_G, BLOCK_H), tl.float32)
    for base in range(0, count, BLOCK_B):
        chunk_B = base + tl.arange(0, BLOCK_B)
        part_BG = head_G.to(tl.int64)[None, :] * most_chunks + chunk_B[:, None]
        is_part_BG = (chunk_B < count)[:, None] & (head_G < GROUP)[None, :]
        is_there_BGH = is_part_BG[:, :, None] & (lane_H < WIDTH)[None, None, :]
        max_BG = tl.load(part_max + part_BG, mask=is_part_BG, other=float("-inf"))
        sum_BG = tl.load(part_sum + part_BG, mask=is_part_BG, other=0.0)
        offset_BGH = part_BG[:, :, None] * WIDTH + lane_H[None, None, :]
        out_BGH = tl.load(part_out + offset_BGH, mask=is_there_BGH, other=0.0)
        new_max_G = tl.maximum(max_G, tl.max(max_BG, 0))
        # A row whose scores are all -inf so far: inf - inf would be NaN.
        shift_G = tl.where(new_max_G == float("-inf"), 0.0, new_max_G)
        weight_BG = tl.exp2(max_BG - shift_G[None, :])
        decay_G = tl.exp2(max_G - shift_G)
        sum_G = sum_G * decay_G + tl.sum(sum_BG * weight_BG, 0)
        out_GH = out_GH * decay_G[:, None] + tl.sum(out_BGH * weight_BG[:, :, None], 0)
        max_G = new_max_G
    return sum_G, out_GH


@triton.jit(do_not_specialize=["most_chunks"])
def _decode_kernel(
    q: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    block_table: tl.tensor,
    sinks: tl.tensor,  # read only if HAS_SINKS
    chunks: tl.tensor,  # as in DecodeWork
    num_listed: tl.tensor,
    num_done: tl.tensor,
    part_max: tl.tensor,  # (S, N, B)
    part_sum: tl.tensor,
    part_out: tl.tensor,  # (S, N, B, H), not yet divided by the sums
    out: tl.tensor,
    q_stride_token: tl.tensor,
    q_stride_head: tl.tensor,
    table_stride: tl.tensor,
    most_chunks: tl.tensor,
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
    CHUNK: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_G: tl.constexpr,
    DTYPE: tl.constexpr,
) -> None:
    row_M = tl.arange(0, BLOCK_M)
    lane_1H = tl.arange(0, BLOCK_H)[None, :]
    is_row_M = row_M < GROUP
    is_there_MH = is_row_M[:, None] & (lane_1H < WIDTH)
    num_items = tl.load(num_listed) * NUM_KV_HEADS
    num_programs = tl.num_programs(0)
    for turn in range(tl.cdiv(num_items - tl.program_id(0), num_programs)):
        item = tl.program_id(0) + turn * num_programs
        # The heads of a chunk come one after the other, as they lie in a page.
        entry = chunks + (item // NUM_KV_HEADS).to(tl.int64) * 3
        kv_head = (item % NUM_KV_HEADS).to(tl.int64)
        sequence = tl.load(entry).to(tl.int64)
        chunk = tl.load(entry + 1)
        num_cached = tl.load(entry + 2)
        first = tl.maximum(num_cached - WINDOW, 0) if WINDOW > 0 else num_cached * 0
        count = (num_cached - first + CHUNK - 1) // CHUNK
        start = first + chunk * CHUNK
        head_M = kv_head * GROUP + row_M
        q_token = q + sequence * q_stride_token  # decodes come first: token s is sequence s
        q_MH = tl.load(q_token + head_M[:, None] * q_stride_head + lane_1H, is_there_MH, other=0.0)
        max_M = tl.full((BLOCK_M,), float("-inf"), tl.float32)
        sum_M = tl.zeros((BLOCK_M,), tl.float32)
        if HAS_SINKS:  # a token before the first, with this score, whose value is 0
            has_sink_M = is_row_M & (chunk == 0)
            max_M = tl.load(sinks + head_M, mask=has_sink_M, other=float("-inf")).to(tl.float32)
            max_M *= 1.4426950408889634
            sum_M += tl.where(has_sink_M, 1.0, 0.0)
        max_M, sum_M, out_MH = attend_tiles(
            q_MH.to(DTYPE), max_M, sum_M, row_M * 0, tl.where(is_row_M, num_cached - 1, -1),
            start, tl.minimum(start + CHUNK, num_cached), key, value,
            block_table + sequence * table_stride, kv_head, scale, value_scale,
            cap, HAS_CAP, NUM_KV_HEADS, WIDTH, PAGE, BLOCK_M, BLOCK_H, BLOCK_C, DTYPE,
        )  # fmt: skip
        first_head = (sequence * NUM_KV_HEADS + kv_head) * GROUP
        if count <= 1:
            out_MH = out_MH / tl.where(is_row_M & (num_cached > 0), sum_M, 1.0)[:, None]
            out_there_MH = out + (first_head + row_M)[:, None] * WIDTH + lane_1H
            tl.store(out_there_MH, out_MH.to(out.dtype.element_ty), mask=is_there_MH)
        else:
            part_M = (first_head + row_M) * most_chunks + chunk
            tl.store(part_max + part_M, max_M, mask=is_row_M)
            tl.store(part_sum + part_M, sum_M, mask=is_row_M)
            tl.store(part_out + part_M[:, None] * WIDTH + lane_1H, out_MH, mask=is_there_MH)
            # One thread counts for all: first all of them must have stored.
            tl.debug_barrier()
            done = num_done + sequence * NUM_KV_HEADS + kv_head
            if tl.atomic_add(done, 1, sem="acq_rel", scope="gpu") == count - 1:
                first_part = first_head * most_chunks
                sum_G, out_GH = _join_parts(
                    part_max + first_part, part_sum + first_part, part_out + first_part * WIDTH,
                    count, most_chunks, GROUP, WIDTH, BLOCK_B, BLOCK_G, BLOCK_H,
                )  # fmt: skip
                head_G = tl.arange(0, BLOCK_G)
                is_head_G = head_G < GROUP
                out_GH = out_GH / tl.where(is_head_G, sum_G, 1.0)[:, None]
                out_there_GH = out + (first_head + head_G)[:, None] * WIDTH + lane_1H
                is_there_GH = is_head_G[:, None] & (lane_1H < WIDTH)
                tl.store(out_there_GH, out_GH.to(out.dtype.element_ty), mask=is_there_GH)
                tl.store(done, 0)  # for the next layer


def choose_programs(group: int, width: int) -> int:
    """Return the programs of a multiprocessor: while one waits for its next chunk, others read.

    No more than run at once, as those that come later would have a whole share of the work left.
    """
    return 3 if round_up_to_power(group) * round_up_to_power(width) <= _SMALL_TILE else 2


@remember
def _count_multiprocessors(device: torch.device) -> int:
    """Return 1 for the interpreter."""
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def attend_decodes(
    q_TNH: torch.Tensor,
    cache: KVCache,
    batch: AttentionBatch,
    work: DecodeWork,
    out_TNH: torch.Tensor,
    sinks_N: torch.Tensor | None,
    settings: dict[str, Any],
    sizes: Sizes,
) -> None:
    """Attend the chunks of all decodes, and join the parts of each.

    Args:
        work: of the same chunks and window.
        settings: what both kernels of attention are told.
        sizes: as in `_CANDIDATES`.
    """
    num_heads, width = q_TNH.shape[1:]
    shape = (batch.num_decodes, num_heads, work.most_chunks)
    part_max, part_sum = torch.empty((2, *shape), device=q_TNH.device, dtype=torch.float32)
    part_out = torch.empty((*shape, width), device=q_TNH.device, dtype=torch.float32)
    block_G = round_up_to_power(settings["GROUP"])
    block_B = max(_JOINED_NUMBERS // (block_G * settings["BLOCK_H"]), 1)
    constants = {name: value for name, value in sizes.items() if name != "PROGRAMS"}
    num_programs = sizes["PROGRAMS"] * _count_multiprocessors(q_TNH.device)
    most_items = len(work.chunks_W3) * settings["NUM_KV_HEADS"]
    _decode_kernel[(min(num_programs, most_items),)](
        q_TNH, cache.key, cache.value, batch.block_table_SM,
        q_TNH if sinks_N is None else sinks_N, work.chunks_W3, work.num_listed_1, work.num_done_SK,
        part_max, part_sum, part_out, out_TNH, q_TNH.stride(0), q_TNH.stride(1),
        batch.block_table_SM.stride(0), work.most_chunks, HAS_SINKS=sinks_N is not None,
        BLOCK_M=round_up_to_power(settings["GROUP"], MIN_SIDE), BLOCK_G=block_G,
        BLOCK_B=min(block_B, _JOINED_PARTS), **settings, **constants,
    )  # fmt: skip


def make_decode_tunable(**fields: Any) -> Tunable:
    """Describe the free parameters; `attention_workloads.py` has what they are tried on."""
    return make_tunable(
        _decode_kernel, name="decode", candidates=_CANDIDATES, is_exact=False, **fields
    )
