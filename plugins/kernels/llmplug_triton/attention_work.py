"""The list of work of a step's decodes: which chunks of cached tokens there are, and whose.

It is made on the device, from the lengths there, by one launch a step: all layers share it, and a
captured step makes its own anew. Whole chunks come first, then the shorter ones that sequences end
with, so that the programs that share the list end at about the same time.

Legend: S decodes, K key/value heads, W places of the list, C chunks written at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from llmplug_triton.tensors import round_up_to_power

if TYPE_CHECKING:
    from llmplug.ops import AttentionBatch

_ROWS = 256  # lengths that are summed at once
_PLACES = 128  # chunks that are written at once: 32,768 tokens by default


@dataclass(frozen=True, slots=True)
class DecodeWork:
    """The chunks of all decodes; each is attended once for each key head.

    A sequence of no tokens, which is padding, has one chunk of no tokens: its output is written.
    """

    most_chunks: int  # that any decode may have
    chunks_W3: torch.Tensor  # int32: sequence, number of the chunk, cached tokens of the sequence
    num_listed_1: torch.Tensor  # int32: places of the list that are taken
    # int32: parts that are done, of those that are to be joined; 0 before and after each launch.
    num_done_SK: torch.Tensor


@triton.jit
def _count_whole(num_cached: tl.tensor, WINDOW: tl.constexpr, CHUNK: tl.constexpr) -> tl.tensor:
    """Count the chunks that are full, and whether there is one more: (whole, 0 or 1)."""
    num_seen = tl.minimum(num_cached, WINDOW) if WINDOW > 0 else num_cached
    has_rest = (num_seen % CHUNK > 0) | (num_seen == 0)
    return num_seen // CHUNK, has_rest.to(tl.int32)


@triton.jit
def _write_places(
    chunks: tl.tensor,
    place: tl.tensor,
    sequence: tl.tensor,
    chunk: tl.tensor,
    num_cached: tl.tensor,
    is_there: tl.tensor,
) -> None:
    entry = chunks + place.to(tl.int64) * 3
    tl.store(entry, sequence, mask=is_there)
    tl.store(entry + 1, chunk, mask=is_there)
    tl.store(entry + 2, num_cached, mask=is_there)


@triton.jit(do_not_specialize=["num_rows"])
def _list_kernel(
    cached_lens: tl.tensor,
    chunks: tl.tensor,
    num_listed: tl.tensor,
    num_done: tl.tensor,
    num_rows: tl.tensor,
    WINDOW: tl.constexpr,
    CHUNK: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    sequence = tl.program_id(0)  # the grid ends with the decodes
    num_whole = 0  # of all sequences
    num_rests = 0
    whole_place = 0  # the chunks of the sequences before this one come first
    rest_place = 0
    for base in range(0, num_rows, BLOCK_S):
        row_S = base + tl.arange(0, BLOCK_S)
        is_row_S = row_S < num_rows
        num_cached_S = tl.load(cached_lens + row_S, mask=is_row_S, other=0)
        whole_S, rest_S = _count_whole(num_cached_S, WINDOW, CHUNK)
        rest_S = tl.where(is_row_S, rest_S, 0)
        is_before_S = row_S < sequence
        num_whole += tl.sum(whole_S, 0)
        num_rests += tl.sum(rest_S, 0)
        whole_place += tl.sum(tl.where(is_before_S, whole_S, 0), 0)
        rest_place += tl.sum(tl.where(is_before_S, rest_S, 0), 0)
    num_cached = tl.load(cached_lens + sequence)
    whole, rest = _count_whole(num_cached, WINDOW, CHUNK)
    for base in range(0, whole, BLOCK_C):
        chunk_C = base + tl.arange(0, BLOCK_C)
        _write_places(chunks, whole_place + chunk_C, sequence, chunk_C, num_cached, chunk_C < whole)
    _write_places(chunks, num_whole + rest_place, sequence, whole, num_cached, rest > 0)
    if sequence == 0:
        tl.store(num_listed, num_whole + num_rests)
    head_K = tl.arange(0, BLOCK_K)
    done_K = num_done + sequence.to(tl.int64) * NUM_KV_HEADS + head_K
    tl.store(done_K, 0, mask=head_K < NUM_KV_HEADS)


def count_chunks(num_tokens: int, chunk: int) -> int:
    """Return how many chunks the cached tokens that a decode sees are cut into."""
    return -(-num_tokens // chunk)


def list_work(
    batch: AttentionBatch, num_kv_heads: int, chunk: int, window: int | None
) -> DecodeWork:
    """List the chunks of a step's decodes, of which there is at least one.

    The host's lengths are bounds; those on the device are what is listed.
    """
    num_rows, device = batch.num_decodes, batch.cached_lens_S.device
    seen = [min(n, window or n) for n in batch.cached_lens[:num_rows]]
    most_chunks = count_chunks(max(1, *seen), chunk)
    work = DecodeWork(
        most_chunks=most_chunks,
        chunks_W3=torch.empty((num_rows * most_chunks, 3), device=device, dtype=torch.int32),
        num_listed_1=torch.empty((1,), device=device, dtype=torch.int32),
        num_done_SK=torch.empty((num_rows, num_kv_heads), device=device, dtype=torch.int32),
    )
    _list_kernel[(num_rows,)](
        batch.cached_lens_S, work.chunks_W3, work.num_listed_1, work.num_done_SK, num_rows,
        WINDOW=window or 0, CHUNK=chunk, NUM_KV_HEADS=num_kv_heads, BLOCK_S=_ROWS,
        BLOCK_C=_PLACES, BLOCK_K=round_up_to_power(num_kv_heads),
    )  # fmt: skip
    return work
