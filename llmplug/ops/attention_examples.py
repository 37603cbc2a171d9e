"""How an attention kernel is compared with the reference: example steps, and a way to run them.

Legend: S sequences in this step, T packed tokens, M pages a sequence may have, N query heads, K
key/value heads, H head width, C cached tokens of a sequence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from llmplug.ops.attacker_rows import make_extreme
from llmplug.ops.attention import AttentionBatch, PagedAttention
from llmplug.ops.table import Op


def make_attention_example(
    lens: list[tuple[int, int]],
    *,
    heads: tuple[int, int, int],
    page_size: int = 16,
    window: int | None = None,
    soft_cap: float | None = None,
    has_sinks: bool = False,
    cache_dtype: torch.dtype | None = None,
    scales: tuple[float, float] = (1.0, 1.0),
    seed: int = 7,
) -> dict[str, Any]:
    """Describe a step: (new tokens, cached tokens) of each sequence, decodes first; (1, 0) is none.

    Args:
        heads: query heads, key/value heads, head width.
        cache_dtype: None: that of the queries.
        scales: of keys and of values, in a cache of 8-bit floats.
    """
    num_heads, num_kv_heads, head_width = heads
    return {
        "lens": lens,
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "head_width": head_width,
        "page_size": page_size,
        "window": window,
        "soft_cap": soft_cap,
        "has_sinks": has_sinks,
        "cache_dtype": cache_dtype,
        "scales": scales,
        "seed": seed,
    }


def _example_inputs(device: torch.device, dtype: torch.dtype) -> list[dict[str, Any]]:
    examples = [
        make_attention_example([(1, 1)], heads=(1, 1, 8)),
        make_attention_example([(1, 5), (1, 300), (1, 64), (1, 65), (1, 1)], heads=(9, 3, 64)),
        make_attention_example([(7, 7), (1, 1), (40, 40)], heads=(4, 2, 16)),
        make_attention_example([(1, 33), (5, 90), (17, 17)], heads=(6, 2, 64), page_size=8),
        make_attention_example([(1, 50), (30, 70)], heads=(4, 4, 32), window=20),
        make_attention_example([(1, 200), (1, 7), (64, 200)], heads=(8, 1, 128), window=100),
        make_attention_example([(1, 9), (1, 40), (1, 0), (1, 0)], heads=(4, 2, 16)),
        make_attention_example([(1, 3), (1, 0), (6, 6)], heads=(2, 1, 8), window=4),
        make_attention_example([], heads=(9, 3, 64)),
    ]
    return [{**example, "device": device, "dtype": dtype} for example in examples]


def make_scored_examples(device: torch.device, dtype: torch.dtype) -> list[dict[str, Any]]:
    """Steps with a soft cap and sinks, which not every kernel of attention serves."""
    lens = [(1, 33), (1, 1), (1, 0), (5, 40), (17, 17)]
    examples = [
        make_attention_example(lens, heads=(4, 2, 16), soft_cap=2.0),
        make_attention_example(lens, heads=(6, 2, 16), has_sinks=True),
        make_attention_example(
            [(1, 50), (30, 70)], heads=(2, 2, 20), soft_cap=5.0, has_sinks=True, window=20
        ),
        make_attention_example([], heads=(4, 2, 16), soft_cap=2.0, has_sinks=True),
    ]
    return [{**example, "device": device, "dtype": dtype} for example in examples]


def make_scaled_examples(device: torch.device, dtype: torch.dtype) -> list[dict[str, Any]]:
    """Steps over caches of 8-bit floats with scales, for kernels that heed these."""
    lens = [(1, 33), (1, 1), (1, 0), (5, 40), (17, 17)]
    fp8 = torch.float8_e4m3fn
    examples = [
        make_attention_example(lens, heads=(4, 2, 16), cache_dtype=fp8, scales=(0.0123, 0.7)),
        make_attention_example(
            [(1, 50), (30, 70)], heads=(2, 1, 20), page_size=8, window=20, soft_cap=5.0,
            has_sinks=True, cache_dtype=fp8, scales=(0.25, 3.0),
        ),
        make_attention_example([], heads=(4, 2, 16), cache_dtype=fp8, scales=(0.5, 0.5)),
    ]  # fmt: skip
    return [{**example, "device": device, "dtype": dtype} for example in examples]


def make_attention_batch(
    example: Mapping[str, Any],
) -> tuple[AttentionBatch, torch.Tensor, list[torch.Tensor], int]:
    """Lay the example's sequences out on pages in a random order.

    Returns:
        (batch, slots that no token uses, slots of each sequence's past tokens, pages in all).
    """
    generator = torch.Generator().manual_seed(example["seed"])
    page_size, device = example["page_size"], example["device"]
    lens = example["lens"]
    counts = [-(-cached // page_size) for _, cached in lens]
    num_pages = sum(counts) + 2
    order = torch.randperm(num_pages, generator=generator)
    table_SM = torch.full((len(lens), max(counts, default=0) + 1), -1, dtype=torch.int32)
    if example.get("attacker") is not None:  # nobody reads what is behind the last page
        table_SM[example["attacker"]] = 2**31 - 1
    new, past, used = [], [], 0
    for s, ((num_new, cached), count) in enumerate(zip(lens, counts, strict=True)):
        pages = order[used : used + count]
        used += count
        table_SM[s, :count] = pages.int()
        slots = (pages[:, None] * page_size + torch.arange(page_size)).flatten()[:cached]
        past.append(slots[: cached - num_new].to(device))
        new.append(slots[cached - num_new :] if cached else torch.tensor([-1]))
    slots_T = torch.cat(new) if new else torch.zeros(0, dtype=torch.long)
    taken = torch.cat([*(part.cpu() for part in past), slots_T])
    unused = torch.ones(num_pages * page_size, dtype=torch.bool)
    unused[taken[taken >= 0]] = False
    query_lens = tuple(num_new for num_new, _ in lens)
    cached_lens = tuple(cached for _, cached in lens)
    starts = torch.tensor([0, *query_lens]).cumsum(0).int()
    num_decodes = next((s for s, n in enumerate(query_lens) if n > 1), len(lens))
    batch = AttentionBatch(
        num_decodes=num_decodes,
        query_lens=query_lens,
        cached_lens=cached_lens,
        query_starts_S1=starts.to(device),
        cached_lens_S=torch.tensor(cached_lens, dtype=torch.int32, device=device),
        block_table_SM=table_SM.to(device),
        slots_T=slots_T.to(device),
    )
    return batch, unused.nonzero().flatten().to(device), past, num_pages


def apply_attention(kernel: Any, example: Mapping[str, Any]) -> torch.Tensor:
    """Fill a cache through `kernel`, NaN wherever no token is, and attend: out_TNH.

    `example["neighbours"]` is another seed for all sequences but the first, if it is there, and
    `example["attacker"]` the number of one whose queries, keys and values are extreme.
    """
    device, dtype = example["device"], example["dtype"]
    kv_shape = (example["num_kv_heads"], example["head_width"])
    batch, unused, past, num_pages = make_attention_batch(example)
    cache_dtype = example.get("cache_dtype") or dtype
    cache = kernel.allocate(
        num_pages, example["page_size"], *kv_shape, device=device, dtype=cache_dtype
    )
    key_scale, value_scale = example["scales"]
    cache = replace(cache, key_scale=key_scale, value_scale=value_scale)
    poison = torch.full((len(unused), *kv_shape), float("nan"), device=device, dtype=dtype)
    kernel.store(cache, poison, poison, unused)
    queries = [torch.zeros(0, example["num_heads"], example["head_width"])]
    keys, values = [torch.zeros(0, *kv_shape)], [torch.zeros(0, *kv_shape)]
    for s, (num_new, cached) in enumerate(example["lens"]):
        # A generator of its own: a sequence's numbers do not depend on its neighbours.
        seed = example["seed"] if s == 0 else example.get("neighbours", example["seed"])
        generator = torch.Generator().manual_seed(1000 * seed + s)
        k_CKH, v_CKH = torch.randn(2, cached or num_new, *kv_shape, generator=generator)
        q_QNH = torch.randn(num_new, *queries[0].shape[1:], generator=generator) * 2
        if s == example.get("attacker"):
            q_QNH, k_CKH, v_CKH = map(make_extreme, (q_QNH, k_CKH, v_CKH))
        queries.append(q_QNH)
        kernel.store(cache, *(x[: len(past[s])].to(device, dtype) for x in (k_CKH, v_CKH)), past[s])
        keys.append(k_CKH[len(past[s]) :])
        values.append(v_CKH[len(past[s]) :])
    q_TNH, k_TKH, v_TKH = (torch.cat(x).to(device, dtype) for x in (queries, keys, values))
    kernel.store(cache, k_TKH, v_TKH, batch.slots_T)
    settings = {"scale": example["head_width"] ** -0.5, "window": example["window"]}
    if example.get("soft_cap") is not None:
        settings["soft_cap"] = example["soft_cap"]
    if example.get("has_sinks"):
        generator = torch.Generator().manual_seed(example["seed"])
        sinks_N = torch.randn(example["num_heads"], generator=generator) * 2
        settings["sinks_N"] = sinks_N.to(device)
    out_TNH: torch.Tensor = kernel.attend(q_TNH, cache, batch, **settings)
    return out_TNH


def _compare(
    kernel: Any, reference: Any, example: Mapping[str, Any]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(apply_attention(kernel, example), apply_attention(reference, example))]


ATTENTION = Op(
    name="attention",
    reference=PagedAttention(),
    # float32: sums over the cached tokens in another order. 16 bit: probabilities may be rounded
    # before they weigh the values, and the result is rounded once more.
    tolerances={"float32": (1e-5, 1e-5), "bfloat16": (1.6e-2, 1.6e-2), "float16": (2e-3, 2e-3)},
    example_inputs=_example_inputs,
    scaled_inputs=make_scaled_examples,
    compare=_compare,
)
