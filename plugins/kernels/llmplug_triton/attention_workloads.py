"""What the two launches of attention are tuned on: decodes and prompts of usual lengths."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from llmplug.ops import ModelSizes, Workload
from llmplug.ops.attention_examples import make_attention_batch, make_attention_example
from llmplug_triton.attention import SHAPE_NAMES
from llmplug_triton.attention_decode import make_decode_tunable
from llmplug_triton.attention_prefill import make_prefill_tunable

_Steps = tuple[list[tuple[int, int]], ...]  # (new tokens, cached tokens) of each sequence
# Chats, long contexts, many at once.
_DECODES: _Steps = ([(1, 1024)], [(1, 8192)] * 4, [(1, 4096)] * 32, [(1, 1024)] * 128)
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
    example = {**make_attention_example(lens, heads=heads), "device": device}
    batch, _, _, num_pages = make_attention_batch(example)
    num_heads, num_kv_heads, width = heads
    cache = attention.allocate(
        num_pages, example["page_size"], num_kv_heads, width, device=device, dtype=dtype
    )
    shape = (sum(batch.query_lens), num_heads, width)
    generator = torch.Generator(device).manual_seed(0)
    q_TNH = torch.randn(shape, generator=generator, device=device).to(dtype)
    return partial(attention.attend, q_TNH, cache, batch, scale=width**-0.5)


DECODE = make_decode_tunable(
    shape_names=SHAPE_NAMES, workloads=partial(_list_workloads, are_decodes=True)
)
PREFILL = make_prefill_tunable(
    shape_names=SHAPE_NAMES, workloads=partial(_list_workloads, are_decodes=False)
)
