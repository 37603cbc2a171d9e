"""The attention reference against attention written down directly, one query at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from llmplug.ops import PagedAttention
from llmplug.ops.attention_examples import (
    ATTENTION,
    apply_attention,
    make_attention_batch,
    make_attention_example,
    make_scaled_examples,
    make_scored_examples,
)

CPU = torch.device("cpu")
EXAMPLES = [
    *ATTENTION.example_inputs(CPU, torch.float32),
    *make_scored_examples(CPU, torch.float32),
    *make_scaled_examples(CPU, torch.float32),
]


class DirectAttention(PagedAttention):
    """The same cache, and the formula in float64, with a sink as a token whose value is 0.

    softmax(cap * tanh(scale * q @ k / cap) over the window) @ v, with k and v as they were before
    they were divided by the scales of the cache
    """

    def attend(self, q_TNH, cache, batch, *, scale, window=None, soft_cap=None, sinks_N=None):
        key, value = (
            kept.float().transpose(1, 2).flatten(0, 1).double() * kept_scale
            for kept, kept_scale in (
                (cache.key, cache.key_scale),
                (cache.value, cache.value_scale),
            )
        )
        group = q_TNH.shape[1] // key.shape[1]
        out_TNH = torch.empty_like(q_TNH)
        t = 0
        for s, (query_len, cached_len) in enumerate(
            zip(batch.query_lens, batch.cached_lens, strict=True)
        ):
            if cached_len == 0:  # padding
                out_TNH[t] = 0
                t += query_len
                continue
            for position in range(cached_len - query_len, cached_len):
                first = 0 if window is None else max(0, position + 1 - window)
                tokens = torch.arange(first, position + 1)
                pages = batch.block_table_SM[s].long()[tokens // cache.page_size]
                slots = pages * cache.page_size + tokens % cache.page_size
                for n in range(q_TNH.shape[1]):
                    scores = scale * key[slots, n // group] @ q_TNH[t, n].double()
                    if soft_cap is not None:
                        scores = soft_cap * torch.tanh(scores / soft_cap)
                    weights = scores.exp()
                    total = weights.sum() + (0 if sinks_N is None else sinks_N[n].double().exp())
                    weights = weights / total
                    out_TNH[t, n] = (weights[:, None] * value[slots, n // group]).sum(0)
                t += 1
        return out_TNH


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_reference_equals_the_formula(number: int) -> None:
    example = EXAMPLES[number]
    got = apply_attention(PagedAttention(), example)
    torch.testing.assert_close(
        got, apply_attention(DirectAttention(), example), rtol=1e-5, atol=1e-5
    )


def test_a_decode_is_bitwise_the_same_alone_and_in_any_batch() -> None:
    lens = [(1, 200), (1, 129), (1, 250), (1, 3), (1, 192), (40, 90)]
    heads = (9, 3, 64)
    together = make_attention_example(lens, heads=heads)
    got = apply_attention(PagedAttention(), {**together, "device": CPU, "dtype": torch.float32})
    for others in ([], [(1, 1)], [(1, 201)] * 7, [(5, 5)]):
        alone = make_attention_example([lens[0], *others], heads=heads)
        out = apply_attention(PagedAttention(), {**alone, "device": CPU, "dtype": torch.float32})
        assert torch.equal(out[0], got[0])


def test_a_chunk_of_one_token_equals_a_decode() -> None:
    """The last token of a prompt may come alone, behind the decodes or among them."""
    example: dict[str, Any] = {
        **make_attention_example([(1, 70), (1, 33)], heads=(4, 2, 16), window=50),
        "device": CPU,
        "dtype": torch.float32,
    }

    class NoDecodes(PagedAttention):
        def attend(self, q_TNH, cache, batch, **settings):
            return super().attend(q_TNH, cache, replace(batch, num_decodes=0), **settings)

    torch.testing.assert_close(
        apply_attention(NoDecodes(), example), apply_attention(PagedAttention(), example)
    )


@pytest.mark.parametrize("example", make_scored_examples(CPU, torch.float32), ids=str)
def test_soft_cap_and_sinks_change_the_result(example) -> None:
    plain = {**example, "soft_cap": None, "has_sinks": False}
    got, without = (apply_attention(PagedAttention(), x) for x in (example, plain))
    assert not example["lens"] or (got - without).abs().max() > 0.01


def test_a_cache_of_8_bit_floats_keeps_what_they_can_hold() -> None:
    """Written and read back by attending to one token: its value, rounded and within 448."""
    attention = PagedAttention()
    for lens in ([(1, 1)], [(1, 1)] * 3):
        example = make_attention_example(lens, heads=(1, 1, 4), page_size=4)
        batch, _, _, num_pages = make_attention_batch({**example, "device": CPU})
        cache = attention.allocate(num_pages, 4, 1, 4, device=CPU, dtype=torch.float8_e4m3fn)
        value_TKH = torch.tensor([[[1e9, -500.0, 0.3, 2.0**-10]]]).repeat(len(lens), 1, 1)
        attention.store(cache, value_TKH, value_TKH, batch.slots_T)
        got = attention.attend(torch.ones(len(lens), 1, 4), cache, batch, scale=1.0)
        assert got.tolist() == [[[448.0, -448.0, 0.3125, 0.0]]] * len(lens)


def test_scales_are_a_change_of_units() -> None:
    """Scales that are powers of two: to the bit as without, and the rest done by hand."""
    example = make_attention_example([(1, 30), (9, 20)], heads=(4, 2, 8), page_size=4)
    batch, _, past, num_pages = make_attention_batch({**example, "device": CPU})
    slots_T = torch.cat([past[0], batch.slots_T[:1], past[1], batch.slots_T[1:]])
    k_TKH, v_TKH = torch.randn(2, len(slots_T), 2, 8) * 100
    q_TNH = torch.randn(10, 4, 8)
    attention, key_scale, value_scale = PagedAttention(), 2.0**-3, 4.0
    plain = attention.allocate(num_pages, 4, 2, 8, device=CPU, dtype=torch.float8_e4m3fn)
    scaled = attention.allocate(num_pages, 4, 2, 8, device=CPU, dtype=torch.float8_e4m3fn)
    scaled = replace(scaled, key_scale=key_scale, value_scale=value_scale)
    attention.store(scaled, k_TKH, v_TKH, slots_T)
    attention.store(plain, k_TKH / key_scale, v_TKH / value_scale, slots_T)
    assert k_TKH.abs().max() / key_scale > 448  # some are clipped
    assert torch.equal(scaled.key.view(torch.uint8), plain.key.view(torch.uint8))
    assert torch.equal(scaled.value.view(torch.uint8), plain.value.view(torch.uint8))
    for settings in ({}, {"soft_cap": 3.0, "sinks_N": torch.ones(4)}):
        got = attention.attend(q_TNH, scaled, batch, scale=0.01, **settings)
        by_hand = attention.attend(q_TNH, plain, batch, scale=0.01 * key_scale, **settings)
        assert torch.equal(got, by_hand * value_scale)


@pytest.mark.parametrize("cache_dtype", [torch.float16, torch.float8_e4m3fn])
def test_a_token_without_a_slot_is_not_stored(cache_dtype: torch.dtype) -> None:
    attention = PagedAttention()
    cache = attention.allocate(3, 4, 1, 2, device=CPU, dtype=cache_dtype)
    x_TKH = torch.arange(1.0, 9.0).view(4, 1, 2)
    attention.store(cache, x_TKH, x_TKH, torch.tensor([-1, 2, -1, 9]))
    kept = cache.key.float().transpose(1, 2).reshape(12, 2)
    assert kept[[2, 9]].tolist() == [[3.0, 4.0], [7.0, 8.0]]
    assert kept.count_nonzero() == 4


@pytest.mark.parametrize("number", [1, 2, 4])
def test_a_cache_of_8_bit_floats_equals_the_formula_over_it(number: int) -> None:
    example = {**EXAMPLES[number], "cache_dtype": torch.float8_e4m3fn}
    got, expected = (apply_attention(a, example) for a in (PagedAttention(), DirectAttention()))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_layers_share_one_plan() -> None:
    example = {**EXAMPLES[1], "device": CPU, "dtype": torch.float32}
    batch, *_, num_pages = make_attention_batch(example)
    attention = PagedAttention()
    for _ in range(3):
        cache = attention.allocate(num_pages, 16, 3, 64, device=CPU, dtype=torch.float32)
        attention.attend(torch.randn(5, 9, 64), cache, batch, scale=1.0)
    assert len(batch.plans) == 1


def test_cache_dtype_may_differ_from_the_query_dtype() -> None:
    example = EXAMPLES[3]

    class HalfCache(PagedAttention):
        def allocate(self, *args, device, dtype):
            return super().allocate(*args, device=device, dtype=torch.bfloat16)

    got = apply_attention(HalfCache(), example)
    assert got.dtype == torch.float32
    # Keys and values lose 16 bits; the weights of a softmax move by about as much.
    torch.testing.assert_close(got, apply_attention(PagedAttention(), example), rtol=0, atol=0.05)
