"""No Triton kernel reads or writes beyond its tensors, nor lets one sequence into another."""

from __future__ import annotations

import pytest
import torch

from llmplug.ops import REFERENCES, AttentionBatch, KernelTable, LoadedTensor
from llmplug.ops.attention_examples import apply_attention, make_attention_example
from llmplug.ops.rope_store import apply_rope_store
from llmplug.testing import GuardedMemory
from llmplug_triton import llmplug_kernels
from tests.ops.kernel_checks import copied
from tests.ops.packed_weights import make_int_tensor
from tests.plugins.block_tensors import make_blocks
from tests.plugins.triton_interpreter import interpreter_that_rounds  # noqa: F401 - a fixture

pytest.importorskip("triton", reason="triton is not installed")
SPECS = {spec.op: spec for spec in llmplug_kernels()}
KERNELS = {op: spec.load() for op, spec in SPECS.items()}
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ROW_OPS = sorted(op for op in SPECS if REFERENCES[op].compare is None)
# numpy, which stands in for the GPU, warns of the NaN that the canaries are.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def as_tuple(outputs):
    return outputs if isinstance(outputs, tuple) else (outputs,)


@pytest.mark.parametrize("op", ROW_OPS)
def test_rows_are_read_and_written_within_their_tensors(op: str) -> None:
    for example in REFERENCES[op].example_inputs(DEVICE, torch.float32)[:4]:
        plain = as_tuple(KERNELS[op](**copied(example)))
        memory = GuardedMemory()
        guarded = memory.copy_all(example)
        with memory.fresh_tensors():
            got = as_tuple(KERNELS[op](**guarded))
        memory.check()
        for x, y in zip(got, plain, strict=True):
            assert not x.isnan().any()  # every element is written
            assert torch.equal(x, y)


@pytest.mark.parametrize("cache_dtype", [torch.float32, torch.float8_e4m3fn])
def test_heads_are_stored_within_the_cache(cache_dtype: torch.dtype) -> None:
    table = KernelTable({"attention": KERNELS["attention"], "rope_store": KERNELS["rope_store"]})
    for example in REFERENCES["rope_store"].example_inputs(DEVICE, torch.float32)[:5]:
        memory = GuardedMemory()
        with memory.fresh_tensors():
            got = apply_rope_store(table, {**example, "cache_dtype": cache_dtype})
        memory.check()
        assert not any(x.isnan().any() for x in got)


@pytest.mark.parametrize("factor", [float("inf"), float("nan")])
def test_tokens_that_are_not_finite_stay_in_their_slots(factor: float) -> None:
    """The first token's query, key and value, and all slots of no token, are as they were."""
    table = KernelTable({"attention": KERNELS["attention"], "rope_store": KERNELS["rope_store"]})
    example = REFERENCES["rope_store"].example_inputs(DEVICE, torch.float32)[1]
    before, after = (apply_rope_store(table, {**example, "factor": f}) for f in (1.0, factor))
    assert torch.equal(before[0][0], after[0][0])
    assert not after[0][1:].isfinite().any()
    for x, y in zip(before[1:], after[1:], strict=True):
        # Pages, heads, tokens: a token that has changed has done so in all its numbers.
        is_same = (x == y).all(-1)
        # One of the others has no slot.
        assert (~is_same).sum() == (example["num_tokens"] - 2) * example["heads"][1]


@pytest.mark.parametrize("settings", [{}, {"soft_cap": 3.0, "has_sinks": True, "window": 9}])
def test_attention_stays_within_its_cache_and_output(settings) -> None:
    """Head widths and page sizes that fill no block; slots of no token hold NaN."""
    lens = [(1, 19), (1, 1), (3, 14)]
    for heads, page_size in (((3, 1, 20), 5), ((4, 2, 16), 8)):
        example = make_attention_example(lens, heads=heads, page_size=page_size, **settings)
        example |= {"device": DEVICE, "dtype": torch.float32}
        memory = GuardedMemory()
        with memory.fresh_tensors():
            got = apply_attention(KERNELS["attention"], example)
        memory.check()
        assert torch.equal(got, apply_attention(KERNELS["attention"], example))
        assert not got.isnan().any()


@pytest.mark.parametrize("num_tokens", [3, 18])
def test_products_stay_within_their_rows(num_tokens: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight_OI = torch.randn(37, 64, generator=generator)
    kernel = KERNELS["linear"]
    sources = [make_blocks(weight_OI, "Q4_1"), make_int_tensor("AWQ", 8, 64, 32),
               LoadedTensor(weight_OI), make_blocks(weight_OI, "Q8_0")]  # fmt: skip
    packed = kernel.pack(sources, None, device=DEVICE, dtype=torch.float32)
    x_TI = torch.randn(num_tokens, 64, generator=generator).to(DEVICE)
    memory = GuardedMemory()
    guarded_TI = memory.copy(x_TI)
    with memory.fresh_tensors():
        got = kernel(guarded_TI, packed)
    memory.check()
    assert torch.equal(got, kernel(x_TI, packed))


# --- long contexts ------------------------------------------------------------------------------
def test_contexts_of_32k_tokens_and_of_one_equal_the_formula() -> None:
    """In one step: decodes over 32,768 tokens and over one, and the end of a prompt of 32,765."""
    kernel, page_size, width, length = KERNELS["attention"], 64, 16, 32768
    generator = torch.Generator().manual_seed(3)
    num_pages = length // page_size
    cache = kernel.allocate(num_pages, page_size, 1, width, device=DEVICE, dtype=torch.float32)
    cache.key.copy_(torch.randn(cache.key.shape, generator=generator))
    cache.value.copy_(torch.randn(cache.value.shape, generator=generator))
    tables = [torch.randperm(num_pages, generator=generator) for _ in range(3)]
    lens = [(1, length), (1, 1), (2, length - 3)]
    q_TNH = torch.randn(4, 2, width, generator=generator).to(DEVICE) * 3
    batch = AttentionBatch(
        num_decodes=2,
        query_lens=tuple(new for new, _ in lens),
        cached_lens=tuple(cached for _, cached in lens),
        query_starts_S1=torch.tensor([0, 1, 2, 4], dtype=torch.int32, device=DEVICE),
        cached_lens_S=torch.tensor([n for _, n in lens], dtype=torch.int32, device=DEVICE),
        block_table_SM=torch.stack(tables).int().to(DEVICE),
        slots_T=torch.zeros(4, dtype=torch.int64, device=DEVICE),
    )
    got = kernel.attend(q_TNH, cache, batch, scale=0.25)
    token = 0
    for (num_new, num_cached), table in zip(lens, tables, strict=True):
        for last in range(num_cached - num_new, num_cached):
            key, value = (
                kept[table.to(DEVICE), 0].flatten(0, 1)[: last + 1].double()
                for kept in (cache.key, cache.value)
            )
            weights_NC = (0.25 * q_TNH[token].double() @ key.T).softmax(1)
            torch.testing.assert_close(
                got[token].double(), weights_NC @ value, rtol=1e-5, atol=1e-5
            )
            token += 1
