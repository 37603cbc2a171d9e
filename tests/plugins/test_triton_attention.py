"""Attention in Triton, in the interpreter where there is no GPU: borders, scores, caches."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from llmplug import KernelInputError
from llmplug.ops import REFERENCES, PagedAttention
from llmplug.ops.attention_examples import (
    apply_attention,
    make_attention_batch,
    make_attention_example,
    make_scored_examples,
)
from llmplug_triton import llmplug_kernels
from tests.ops.kernel_checks import (
    DTYPES,
    check_equals_reference,
    check_first_row_stands_alone,
    poisoned_memory,  # noqa: F401 - a fixture
)
from tests.plugins.triton_interpreter import interpreter_that_rounds  # noqa: F401 - a fixture

pytest.importorskip("triton", reason="triton is not installed")
(SPEC,) = [spec for spec in llmplug_kernels() if spec.op == "attention"]
KERNEL = SPEC.load()
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# numpy, which stands in for the GPU, warns of the inf and NaN that some tests are about.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, device=DEVICE)


def describe(lens, heads, **settings):
    example = make_attention_example(lens, heads=heads, **settings)
    return {**example, "device": DEVICE, "dtype": torch.float32}


AROUND_BORDERS = [
    # Pages of 8 tokens, tiles of 64 and chunks of 256: one token before, on and after each border.
    describe([(1, n) for n in (7, 8, 9, 63, 64, 65, 256, 257)], (2, 1, 16), page_size=8),
    describe([(n, n) for n in (7, 8, 9, 31, 32, 33)], (4, 2, 16), page_size=8),
    # A window that begins within a page, a chunk and a tile.
    describe([(1, 600), (3, 300)], (2, 2, 16), window=270),
    describe([(2, 5), (40, 90)], (3, 1, 24), page_size=4, window=1),
    # Pages of a size that is no power of two, and a head that is none.
    describe([(1, 50), (9, 31)], (3, 1, 20), page_size=12),
]


@pytest.mark.parametrize("example", AROUND_BORDERS, ids=str)
def test_attention_around_borders_equals_reference(example) -> None:
    op = REFERENCES["attention"]
    check_equals_reference(op, KERNEL, [example], "float32")


class ShortChunks:
    def find_sizes(self, tunable, dtype, shape, default):
        return {**default, "CHUNK": 16} if tunable == "decode" else default


def test_attention_joins_parts_in_rounds() -> None:
    """More than 16 parts of a decode, on both sides of a round's end."""
    example = describe([(1, n) for n in (256, 257)], (2, 1, 16))
    kernel = SPEC.load(ShortChunks())
    check_equals_reference(REFERENCES["attention"], kernel, [example], "float32")


def attend_two(kernel, cache_dtype: str = "float32", factor: float = 1.0) -> torch.Tensor:
    """A decode over 70 tokens, and the last 5 of a prompt of 20, all multiplied by `factor`."""
    batch, _, past, num_pages = make_attention_batch(describe([(1, 70), (5, 20)], (4, 2, 16)))
    generator = torch.Generator().manual_seed(1)
    slots_T = torch.cat([past[0], batch.slots_T[:1], past[1], batch.slots_T[1:]])
    q_TNH = torch.randn(6, 4, 16, generator=generator).to(DEVICE)
    k_TKH, v_TKH = torch.randn(2, len(slots_T), 2, 16, generator=generator).to(DEVICE)
    for x, first in ((q_TNH, 1), (k_TKH, 70), (v_TKH, 70)):
        x[first:] *= factor
    cache = kernel.allocate(num_pages, 16, 2, 16, device=DEVICE, dtype=DTYPES[cache_dtype])
    kernel.store(cache, k_TKH, v_TKH, slots_T)
    return kernel.attend(q_TNH, cache, batch, scale=0.25)


@pytest.mark.parametrize("cache_dtype", DTYPES)
def test_attention_reads_a_cache_of_another_dtype(cache_dtype: str) -> None:
    """Keys and values are rounded when they are stored, and multiplied as float32 queries are."""
    got = attend_two(KERNEL, cache_dtype)
    torch.testing.assert_close(got, attend_two(PagedAttention(), cache_dtype), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("factor", [float("inf"), float("nan")])
def test_attention_keeps_what_is_not_finite_to_its_sequence(factor: float) -> None:
    before, after = (attend_two(KERNEL, factor=x) for x in (1.0, factor))
    assert torch.equal(before[:1], after[:1])
    assert after[1:].isnan().all()


def test_attention_refuses_what_does_not_fit() -> None:
    kernel = KERNEL
    batch, _, _, num_pages = make_attention_batch(describe([(1, 5)], (2, 2, 16)))
    cache = kernel.allocate(num_pages, 16, 2, 16, device=DEVICE, dtype=torch.float32)
    with pytest.raises(KernelInputError, match="for a cache of 2 heads of 16"):
        kernel.attend(zeros(1, 3, 16), cache, batch, scale=1.0)
    with pytest.raises(KernelInputError, match="batch of 1 tokens"):
        kernel.attend(zeros(2, 2, 16), cache, batch, scale=1.0)
    with pytest.raises(KernelInputError, match="for a cache of 2 heads of 16"):
        kernel.store(cache, zeros(1, 1, 16), zeros(1, 1, 16), batch.slots_T)
    with pytest.raises(KernelInputError, match="int64 slots"):
        kernel.store(cache, zeros(1, 2, 16), zeros(1, 2, 16), batch.slots_T.int())
    with pytest.raises(KernelInputError, match="sinks of"):
        kernel.attend(zeros(1, 2, 16), cache, batch, scale=1.0, sinks_N=zeros(3))


@pytest.mark.parametrize("dtype", DTYPES)
def test_soft_cap_and_sinks_equal_reference(dtype: str) -> None:
    examples = make_scored_examples(DEVICE, DTYPES[dtype])
    check_equals_reference(REFERENCES["attention"], KERNEL, examples, dtype)


def test_scores_of_a_row_do_not_depend_on_its_neighbours() -> None:
    examples = make_scored_examples(DEVICE, torch.bfloat16)
    check_first_row_stands_alone(REFERENCES["attention"], KERNEL, examples)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_cache_of_8_bit_floats_equals_reference(dtype: str) -> None:
    """NaN in the slots of no token, as in all examples, is kept as NaN and never seen."""
    lens = [(1, 33), (1, 1), (5, 40), (17, 17)]
    example = describe(lens, (4, 2, 16), page_size=8, cache_dtype=torch.float8_e4m3fn)
    example["dtype"] = DTYPES[dtype]
    check_equals_reference(REFERENCES["attention"], KERNEL, [example], dtype)


@pytest.mark.parametrize("scales", [(1.0, 1.0), (0.0123, 3e4)])
def test_8_bit_floats_are_stored_as_the_reference_stores_them(scales) -> None:
    special = [1e9, -1e9, float("inf"), float("nan"), 448.0, 463.9, 2.0**-10, 3 * 2.0**-10, -0.0]
    generator = torch.Generator().manual_seed(0)
    numbers = torch.cat([torch.tensor(special), torch.randn(119, generator=generator) * 8])
    new_TKH = numbers.view(4, 2, 16).to(DEVICE)
    slots_T = torch.tensor([5, 0, 11, 6], device=DEVICE)
    stored = []
    for kernel in (KERNEL, PagedAttention()):
        cache = kernel.allocate(3, 4, 2, 16, device=DEVICE, dtype=torch.float8_e4m3fn)
        cache = replace(cache, key_scale=scales[0], value_scale=scales[1])
        kernel.store(cache, new_TKH, -new_TKH, slots_T)
        stored.append(torch.cat([cache.key.float(), cache.value.float()]))
    torch.testing.assert_close(stored[0], stored[1], rtol=0, atol=0, equal_nan=True)


def test_a_sink_is_a_token_without_a_value() -> None:
    """The same as a first token whose value is 0 and whose score is the sink's."""
    example = {**describe([(1, 40), (9, 30)], (2, 1, 16)), "has_sinks": True}
    got = apply_attention(KERNEL, example)
    plain = apply_attention(KERNEL, {**example, "has_sinks": False})
    share = got / plain  # what the tokens have of the softmax, the same for all numbers of a head
    assert ((share > 0) & (share < 1)).all()
    torch.testing.assert_close(share, share[..., :1].expand_as(share), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("window", [None, 40])
def test_decodes_may_be_told_bounds_of_their_lengths(window: int | None) -> None:
    """A step that is captured for long contexts gives short ones, and padding, the same."""
    example = describe([(1, 3), (1, 300), (1, 0), (1, 64)], (4, 2, 16), window=window)

    class Bounded(type(KERNEL)):
        def attend(self, q_TNH, cache, batch, **settings):
            return super().attend(q_TNH, cache, replace(batch, cached_lens=(1024,) * 4), **settings)

    assert KERNEL.is_replayable
    got = apply_attention(Bounded(), example)
    assert torch.equal(got, apply_attention(KERNEL, example))
