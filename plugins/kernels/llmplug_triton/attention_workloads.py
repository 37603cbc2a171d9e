"""What the two launches of attention are tuned on: decodes and prompts of usual lengths."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from llmplug.ops import AttentionBatch, ModelSizes, Workload
from llmplug_triton.attention import SHAPE_NAMES
from llmplug_triton.attention_decode import make_decode_tunable
from llmplug_triton.attention_prefill import make_prefill_tunable

_PAGE_SIZE = 16

_Steps = tuple[list[tuple[int, int]], ...]  # (new tokens, cached tokens) of each sequence
# Chats, long contexts, many at once, one of them much longer than the others.
_DECODES: _Steps = (
    [(1, 1024)],
    [(1, 8192)] * 4,
    [(1, 4096)] * 32,
    [(1, 1024)] * 128,
    [(1, 32768)] + [(1, 512)] * 31,
)
_PROMPTS: _Steps = ([(512, 512)], [(2048, 2048)], [(512, 8192)])
# For CPUs, whose interpreter takes its time.
_FEW_DECODES: _Steps = ([(1, 300), (1, 40)],)
_FEW_PROMPTS: _Steps = ([(70, 70)],)


def _list_workloads(
    sizes: ModelSizes, device: torch.device, dtype: torch.dtype, *, are_decodes: bool
) -> list[Workload]:
    steps, few = (_DECODES, _FEW_DECODES) if are_decodes else (_PROMPTS, _FEW_PROMPTS)
    return [
        Workload(
            prepare=partial(_prepare, lens, heads, device, dtype),
            num_bytes=_count_cached(lens) * 2.0 * heads[1] * heads[2] * dtype.itemsize,
            num_flops=4.0 * sum(map(_count_pairs, lens)) * heads[0] * heads[2],
        )
        for heads in sizes.heads
        for lens in (steps if device.type == "cuda" else few)
    ]


def _count_cached(lens: list[tuple[int, int]]) -> int:
    return sum(cached for _, cached in lens)


def _count_pairs(lens: tuple[int, int]) -> float:
    """Return how many pairs of a query and a key that it sees a sequence has."""
    new, cached = lens
    return new * (cached - (new - 1) / 2)


def _prepare(
    lens: list[tuple[int, int]],
    heads: tuple[int, int, int],
    device: torch.device,
    dtype: torch.dtype,
    attention: Any,
) -> partial[torch.Tensor]:
    batch, num_pages = _lay_out(lens, device)
    num_heads, num_kv_heads, width = heads
    cache = attention.allocate(
        num_pages, _PAGE_SIZE, num_kv_heads, width, device=device, dtype=dtype
    )
    shape = (sum(batch.query_lens), num_heads, width)
    generator = torch.Generator(device).manual_seed(0)
    q_TNH = torch.randn(shape, generator=generator, device=device).to(dtype)
    return partial(attention.attend, q_TNH, cache, batch, scale=width**-0.5)


def _lay_out(lens: list[tuple[int, int]], device: torch.device) -> tuple[AttentionBatch, int]:
    """Give each sequence its pages, in a random order, as they are in a cache that has served.

    Returns:
        (the step, pages in all).
    """
    counts = [-(-cached // _PAGE_SIZE) for _, cached in lens]
    generator = torch.Generator().manual_seed(7)
    pages = list(torch.split(torch.randperm(sum(counts), generator=generator), counts))
    slots = [(each[:, None] * _PAGE_SIZE + torch.arange(_PAGE_SIZE)).flatten() for each in pages]
    table_SM = pad_sequence(pages, batch_first=True, padding_value=-1)
    query_lens, cached_lens = (tuple(each) for each in zip(*lens, strict=True))
    batch = AttentionBatch(
        num_decodes=query_lens.count(1),
        query_lens=query_lens,
        cached_lens=cached_lens,
        query_starts_S1=torch.tensor([0, *query_lens]).cumsum(0).int().to(device),
        cached_lens_S=torch.tensor(cached_lens, dtype=torch.int32, device=device),
        block_table_SM=F.pad(table_SM, (0, 1), value=-1).int().to(device),
        slots_T=torch.cat(
            [each[cached - new : cached] for each, (new, cached) in zip(slots, lens, strict=True)]
        ).to(device),
    )
    return batch, sum(counts)


DECODE = make_decode_tunable(
    shape_names=SHAPE_NAMES, workloads=partial(_list_workloads, are_decodes=True)
)
PREFILL = make_prefill_tunable(
    shape_names=SHAPE_NAMES, workloads=partial(_list_workloads, are_decodes=False)
)
