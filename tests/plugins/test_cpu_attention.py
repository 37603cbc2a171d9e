"""The AVX2 attention: pages of any size, caches of any number, and no neighbour in any result."""

from __future__ import annotations

import pytest
import torch

from llmplug import KernelInputError
from llmplug.ops import AttentionBatch, PagedAttention
from llmplug_cpu import build

REASON = build.find_reason_against()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def attention():
    from llmplug_cpu.attention import GroupAttention

    return GroupAttention()


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make_batch(
    lens: list[tuple[int, int]], page_size: int
) -> tuple[AttentionBatch, list[torch.Tensor]]:
    """Sequences of (new tokens, cached tokens) on pages handed out in turn: batch, their slots."""
    counts = [-(-cached // page_size) for _, cached in lens]
    table_SM = torch.full((len(lens), max(counts)), -1, dtype=torch.int32)
    slots = []
    for s, (_, cached) in enumerate(lens):
        pages = torch.arange(counts[s]) * len(lens) + s
        table_SM[s, : counts[s]] = pages.int()
        slots.append((pages[:, None] * page_size + torch.arange(page_size)).flatten()[:cached])
    new = [part[cached - num_new :] for part, (num_new, cached) in zip(slots, lens, strict=True)]
    starts = torch.tensor([0, *(num_new for num_new, _ in lens)]).cumsum(0).int()
    batch = AttentionBatch(
        num_decodes=sum(num_new == 1 for num_new, _ in lens),
        query_lens=tuple(num_new for num_new, _ in lens),
        cached_lens=tuple(cached for _, cached in lens),
        query_starts_S1=starts,
        cached_lens_S=torch.tensor([cached for _, cached in lens], dtype=torch.int32),
        block_table_SM=table_SM,
        slots_T=torch.cat(new),
    )
    return batch, slots


def attend(kernel, lens, heads, *, page_size=16, window=None, dtype=torch.float32, seeds=None):
    """Attend with sequence s drawn from its own seed, so that neighbours can change around it."""
    num_heads, num_kv_heads, width = heads
    batch, slots = make_batch(lens, page_size)
    num_pages = int(batch.block_table_SM.max()) + 1
    cache = kernel.allocate(num_pages, page_size, num_kv_heads, width, device=CPU, dtype=dtype)
    queries = []
    for s, (num_new, cached) in enumerate(lens):
        seed = 100 + (seeds[s] if seeds else s)
        kv = random(2, cached, num_kv_heads, width, seed=seed)
        kernel.store(cache, kv[0], kv[1], slots[s])
        queries.append(random(cached, num_heads, width, seed=seed + 1000)[cached - num_new :] * 2)
    return kernel.attend(torch.cat(queries), cache, batch, scale=width**-0.5, window=window)


SHAPES = [
    ([(1, 1), (1, 700), (9, 9)], (9, 3, 64), 16, None),
    ([(1, 90), (33, 1100)], (4, 2, 16), 16, None),
    ([(1, 77), (20, 60)], (6, 2, 64), 5, None),
    ([(1, 77), (20, 60)], (2, 1, 80), 3, 7),
    ([(1, 600), (40, 640)], (3, 3, 10), 32, 130),
    ([(1, 40), (3, 5)], (30, 1, 24), 16, None),
]


@pytest.mark.parametrize(("lens", "heads", "page_size", "window"), SHAPES)
def test_attention_meets_the_reference(attention, lens, heads, page_size, window):
    settings = {"page_size": page_size, "window": window}
    got = attend(attention, lens, heads, **settings)
    expected = attend(PagedAttention(), lens, heads, **settings)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_16_bit_cache_only_rounds_what_is_stored(attention, dtype):
    lens, heads = [(1, 700), (9, 90)], (9, 3, 64)
    got = attend(attention, lens, heads, dtype=dtype)
    expected = attend(PagedAttention(), lens, heads, dtype=dtype)  # computes in float32 too
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_a_sequence_is_the_same_beside_any_other(attention):
    lens, heads = [(1, 700), (1, 3), (30, 65)], (9, 3, 64)
    one = attend(attention, lens, heads, seeds=[0, 1, 2])
    other = attend(attention, [(1, 700), (1, 90), (5, 5)], heads, seeds=[0, 7, 8])
    alone = attend(attention, [(1, 700)], heads, seeds=[0])
    assert torch.equal(one[:1], alone)
    assert torch.equal(other[:1], alone)


@pytest.mark.parametrize("window", [None, 50])
def test_a_token_is_the_same_in_a_prompt_and_alone(attention, window):
    """Chunks of a prompt may be cut anywhere, and a preempted sequence computed again."""
    heads = (6, 2, 32)
    whole = attend(attention, [(600, 600)], heads, window=window)
    for num_new in (1, 3, 17, 256):
        part = attend(attention, [(num_new, 600)], heads, window=window)
        assert torch.equal(part, whole[-num_new:])


def test_a_cache_refuses_what_does_not_fit(attention):
    cache = attention.allocate(2, 16, 3, 64, device=CPU, dtype=torch.float32)
    slots = torch.arange(2)
    with pytest.raises(KernelInputError):
        attention.store(cache, torch.ones(2, 2, 64), torch.ones(2, 2, 64), slots)
    with pytest.raises(KernelInputError):
        attention.store(cache, torch.ones(2, 3, 64), torch.ones(2, 3, 64), slots.int())
    with pytest.raises(KernelInputError):
        attention.allocate(2, 16, 3, 64, device=CPU, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_16_bit_cache_rounds_as_torch_does(attention, dtype):
    """One token attends to itself alone: what comes back is its value, rounded."""
    special = [0.0, -0.0, 1e-8, 65504.0, 65519.0, -65519.0, 1.0009765, 3.0e38, float("inf")]
    values = torch.cat([torch.tensor(special), random(39) * 300])
    cache = attention.allocate(1, 16, 1, len(values), device=CPU, dtype=dtype)
    attention.store(cache, torch.zeros(1, 1, 48), values.view(1, 1, -1), torch.zeros(1).long())
    batch, _ = make_batch([(1, 1)], 16)
    got = attention.attend(torch.zeros(1, 1, 48), cache, batch, scale=1.0).flatten()
    # A finite number beyond half precision is kept as the largest one.
    limit = torch.finfo(dtype).max
    finite = values.clamp(-limit, limit).where(values.isfinite(), values)
    assert torch.equal(got, finite.to(dtype).float())


def test_other_scores_are_refused(attention):
    """A soft cap and sinks are served by the reference; nothing is left out in silence."""
    batch, _ = make_batch([(1, 1)], 16)
    cache = attention.allocate(1, 16, 1, 16, device=CPU, dtype=torch.float32)
    for settings in ({"soft_cap": 30.0}, {"sinks_N": torch.zeros(1)}):
        with pytest.raises(KernelInputError, match=r"kernels.block: \[avx2\]"):
            attention.attend(torch.zeros(1, 1, 16), cache, batch, scale=1.0, **settings)
    with pytest.raises(KernelInputError, match="float8"):
        attention.allocate(1, 16, 1, 16, device=CPU, dtype=torch.float8_e4m3fn)
