"""Weights in few bits in Triton, in the interpreter where there is no GPU: against plain torch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from llmplug import KernelInputError
from llmplug.ops import REFERENCES, Fp8Tensor, LoadedTensor
from llmplug.ops.attacker_rows import find_other_outputs, with_attacker
from llmplug.testing import GuardedMemory
from llmplug_triton import llmplug_kernels
from tests.ops.kernel_checks import (
    DTYPES,
    check_equals_reference,
    poisoned_memory,  # noqa: F401 - a fixture
)
from tests.ops.packed_weights import make_int_tensor
from tests.plugins.block_tensors import BLOCKS, make_blocks
from tests.plugins.triton_interpreter import interpreter_that_rounds  # noqa: F401 - a fixture

pytest.importorskip("triton", reason="triton is not installed")
(SPEC,) = [spec for spec in llmplug_kernels() if spec.op == "linear"]
KERNEL = SPEC.load()
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# numpy, which stands in for the GPU, warns of the NaN that a test is about.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
ROUNDED = ("int8", "int4", "fp8")


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def pack(
    sources: list[Any], bias_O: torch.Tensor | None, dtype: torch.dtype, name: str = "auto"
) -> Any:
    return KERNEL.pack(sources, bias_O, device=DEVICE, dtype=dtype, format=name)


def read_back(packed: Any, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The weight that the kernel multiplies with: its product with the identity."""
    return KERNEL(torch.eye(packed.num_inputs, device=DEVICE, dtype=dtype), packed).T


def make_fp8(outputs: int, inputs: int, scales: tuple[int, ...], seed: int = 3) -> Fp8Tensor:
    codes = (randn(outputs, inputs, seed=seed).cpu() * 100).to(torch.float8_e4m3fn)
    scale = torch.rand(scales, generator=torch.Generator().manual_seed(seed)) + 0.5
    return Fp8Tensor(weight=LoadedTensor(codes), scales=LoadedTensor(scale / 100))


STORED = {
    **{name: [make_blocks(randn(n, 96, seed=n).cpu(), name) for n in (33, 7)] for name in BLOCKS},
    "GPTQ": [make_int_tensor("GPTQ", 16, 128, 64)],
    "GPTQ_V2": [make_int_tensor("GPTQ_V2", 40, 96, 32)],
    "GPTQ, groups out of order": [make_int_tensor("GPTQ", 16, 128, 32, is_in_order=False)],
    "GPTQ 8 bits": [make_int_tensor("GPTQ", 16, 128, 64, bits=8)],
    "GPTQ 8 bits, out of order": [
        make_int_tensor("GPTQ", 8, 96, 32, bits=8, is_in_order=False),
        make_int_tensor("GPTQ", 8, 96, 32, bits=8, is_in_order=False, seed=1),
    ],
    "GPTQ_V2 8 bits": [make_int_tensor("GPTQ_V2", 12, 64, 32, bits=8)],
    "AWQ": [make_int_tensor("AWQ", 16, 256, 128), make_int_tensor("AWQ", 24, 256, 128, seed=1)],
    "fp8, one scale": [make_fp8(9, 50, (1,))],
    "fp8, a scale an output": [make_fp8(9, 50, (9, 1)), make_fp8(17, 50, (17,))],
    "fp8, blocks": [make_fp8(130, 200, (2, 2))],
    "several": [make_blocks(randn(5, 64).cpu(), "Q4_0"), make_blocks(randn(6, 64).cpu(), "Q8_0"),
                LoadedTensor(randn(3, 64, seed=1).cpu()), make_int_tensor("AWQ", 8, 64, 32)],
}  # fmt: skip


@pytest.mark.parametrize("num_tokens", [1, 16, 17])
@pytest.mark.parametrize("name", STORED)
def test_product_is_that_of_the_files_numbers(name: str, num_tokens: int) -> None:
    """Both tiles, that of few rows and that of many, against float64."""
    sources = STORED[name]
    weight_OI = torch.cat([source.load().double() for source in sources]).to(DEVICE)
    bias_O = randn(len(weight_OI), seed=5)
    x_TI = randn(num_tokens, weight_OI.shape[1], seed=6)
    packed = pack(sources, bias_O, torch.float32)
    got = KERNEL(x_TI, packed)
    expected = x_TI.double() @ weight_OI.T + bias_O.double()
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-4)
    kept = [SPEC.keep(source, "auto") for source in sources]
    dense_bytes = sum(s.num_bytes for s, k in zip(sources, kept, strict=True) if k is None)
    said_bytes = dense_bytes + sum(k.num_bytes for k in kept if k)
    # Weights of one order of inputs, joined, have it once.
    orders_bytes = sum(4 * s.shape[1] for s in sources[1:] if "out of order" in name)
    assert packed.num_bytes - bias_O.nbytes == said_bytes - orders_bytes


@pytest.mark.parametrize(
    "name",
    ["Q4_0", "Q4_1", "Q8_0", "GPTQ", "GPTQ, groups out of order", "GPTQ 8 bits", "AWQ",
     "fp8, blocks"],
)  # fmt: skip
def test_numbers_of_the_file_are_kept(name: str) -> None:
    """One product a number, so nothing is summed: equal up to float32's rounding."""
    sources = STORED[name][:1]
    got = read_back(pack(sources, None, torch.float32))
    torch.testing.assert_close(got, sources[0].load().to(DEVICE), rtol=3e-7, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ROUNDED)
def test_product_is_that_of_the_rounded_weights(name: str, dtype: str) -> None:
    rtol, atol = REFERENCES["linear"].tolerances[dtype]
    for example in REFERENCES["linear"].example_inputs(DEVICE, DTYPES[dtype]):
        if example["x_TI"].shape[1] == 576:
            continue  # the interpreter is slow
        packed = pack(example["sources"], example["bias_O"], DTYPES[dtype], name)
        weight_OI = read_back(packed).double()
        if example["bias_O"] is not None:
            weight_OI -= example["bias_O"].double()[:, None]
        expected = example["x_TI"].double() @ weight_OI.T
        if example["bias_O"] is not None:
            expected += example["bias_O"].double()
        got = KERNEL(example["x_TI"], packed)
        assert got.dtype is DTYPES[dtype]
        torch.testing.assert_close(got.double(), expected, rtol=rtol, atol=atol)


# --- dense weights of few rows ------------------------------------------------------------------
class Fixed:
    """A tuning that says the same of every launch."""

    def __init__(self, **sizes: int) -> None:
        self.sizes = sizes

    def find_sizes(self, tunable, dtype, shape, default):
        return {**default, **self.sizes} if tunable == "few_rows" else default


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_splits", [1, 3])
def test_few_rows_of_a_dense_weight_equal_reference(dtype: str, num_splits: int) -> None:
    kernel = SPEC.load(Fixed(NUM_SPLITS=num_splits, BLOCK_O=16))
    examples = REFERENCES["linear"].example_inputs(DEVICE, DTYPES[dtype])
    check_equals_reference(REFERENCES["linear"], kernel, examples, dtype)


@pytest.mark.parametrize("num_splits", [1, 2, 5])
def test_splits_end_on_both_sides_of_the_inputs(num_splits: int) -> None:
    """Blocks of 128 inputs, one more and less; splits that have no input left."""
    kernel = SPEC.load(Fixed(NUM_SPLITS=num_splits))
    for inputs in (127, 129, 300):
        sources = [LoadedTensor(randn(33, inputs, seed=inputs).cpu())]
        bias_O, x_TI = randn(33, seed=1), randn(3, inputs, seed=2)
        packed = kernel.pack(sources, bias_O, device=DEVICE, dtype=torch.float32)
        memory = GuardedMemory()
        with memory.fresh_tensors():
            got = kernel(memory.copy(x_TI), packed)
        memory.check()
        expected = x_TI.double() @ packed.weight_OI.double().T + bias_O.double()
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("num_splits", [1, 3])
def test_a_row_is_the_same_among_any_number_of_few_rows(num_splits: int) -> None:
    kernel = SPEC.load(Fixed(NUM_SPLITS=num_splits))
    packed = kernel.pack([LoadedTensor(randn(40, 300))], None, device=DEVICE, dtype=torch.float32)
    example = {"x_TI": randn(16, 300, seed=3)}
    whole = kernel(example["x_TI"], packed)
    for count in (1, 2, 9, 15):
        assert torch.equal(kernel(example["x_TI"][:count], packed), whole[:count])
    for row in (0, 15):
        got = kernel(with_attacker(example, row)["x_TI"], packed)
        is_other = find_other_outputs(example, row, 16)
        assert torch.equal(got[is_other], whole[is_other])
        assert not got[row].isfinite().any()


@pytest.mark.parametrize("tuning", [None, Fixed()])
def test_torch_multiplies_unless_a_table_says_otherwise(tuning, monkeypatch) -> None:
    def refuse(*arguments):
        raise AssertionError("the kernel was launched")

    monkeypatch.setattr("llmplug_triton.linear.multiply_few_rows", refuse)
    kernel = SPEC.load(tuning)
    packed = kernel.pack([LoadedTensor(randn(40, 64))], None, device=DEVICE, dtype=torch.float32)
    x_TI = randn(4, 64, seed=3)
    assert torch.equal(kernel(x_TI, packed), x_TI @ packed.weight_OI.T)
    kernel = SPEC.load(Fixed(NUM_SPLITS=2))
    kernel(randn(17, 64), packed)  # too many rows
    with pytest.raises(AssertionError, match="launched"):
        kernel(x_TI, packed)


# --- weights that are rounded -------------------------------------------------------------------
def make_rows_of_many_sizes() -> torch.Tensor:
    return randn(5, 100) * torch.tensor([1e-2, 1.0, 1e2, 0.0, 1.0], device=DEVICE)[:, None]


def test_int8_is_rounded_to_the_nearest() -> None:
    weight_OI = make_rows_of_many_sizes()
    back_OI = read_back(pack([LoadedTensor(weight_OI)], None, torch.float32, "int8"))
    largest_O = weight_OI.double().abs().amax(1)
    # Half a step of 1/127 of the largest, and float32's rounding of the quotient.
    assert ((back_OI - weight_OI.double()).abs() <= (largest_O * 0.5001 / 127)[:, None]).all()


def test_int4_is_rounded_to_the_nearest() -> None:
    weight_OI = make_rows_of_many_sizes()
    back_OI = read_back(pack([LoadedTensor(weight_OI)], None, torch.float32, "int4"))
    for group in (slice(0, 64), slice(64, 100)):
        part = weight_OI[:, group].double()
        step_O = (part.amax(1) - part.amin(1)) / 15
        # Half a step; scale and minimum are float16, which 15 steps see 15 times.
        margin_O = step_O * 0.5 + part.abs().amax(1) * 2e-3 + 1e-7
        assert ((back_OI[:, group] - part).abs() <= margin_O[:, None]).all()


def test_fp8_is_rounded_to_the_nearest() -> None:
    weight_OI = make_rows_of_many_sizes()
    back_OI = read_back(pack([LoadedTensor(weight_OI)], None, torch.float32, "fp8"))
    largest_O1 = weight_OI.double().abs().amax(1, keepdim=True)
    # Three bits behind the point, and below 2**-6 of 448 steps of 2**-9.
    margin = weight_OI.double().abs() * 2**-4 * 1.001 + largest_O1 / 448 * 2**-10 * 1.001
    assert ((back_OI - weight_OI.double()).abs() <= margin).all()


def test_weights_too_small_for_a_scale_become_zeros() -> None:
    tiny = 2.0**-149  # the smallest number above 0
    weight_OI = torch.tensor([[180 * tiny, -tiny], [1.0, -0.5], [-127 * 2.0**-126, 2.0**-126]])
    packed = pack([LoadedTensor(weight_OI.to(DEVICE))], None, torch.float32, "int8")
    assert packed.parts[0].code.tolist() == [[0, 0], [127, -64], [-127, 1]]


@pytest.mark.parametrize("name", ROUNDED)
def test_row_is_the_same_alone_and_in_a_batch(name: str) -> None:
    packed = pack([LoadedTensor(randn(70, 100))], randn(70, seed=1), torch.float32, name)
    x_TI = randn(80, 100, seed=2)
    batch = KERNEL(x_TI, packed)
    # In the interpreter the last bits differ by a tile's height and a row's place in it, probably
    # as the products are numpy's there: rows of few are compared to the bit, others nearly.
    few = KERNEL(x_TI[:5], packed)
    assert torch.equal(KERNEL(x_TI[:1], packed)[0], few[0])
    torch.testing.assert_close(few, batch[:5], rtol=1e-5, atol=1e-5)
    for rows in (slice(0, 5), slice(0, 80)):
        spoiled = x_TI[rows].clone()
        spoiled[1:] = float("nan")
        got = KERNEL(spoiled, packed)
        assert torch.equal(got[0], KERNEL(x_TI[rows], packed)[0])
        assert got[1:].isnan().all()


@pytest.mark.parametrize("num_tokens", [5, 18])
@pytest.mark.parametrize("name", STORED)
def test_rows_do_not_see_an_attacker_among_them(name: str, num_tokens: int) -> None:
    """Of numbers as files have them, in tiles of both heights."""
    packed = pack(STORED[name], None, torch.float32)
    example = {"x_TI": randn(num_tokens, packed.num_inputs, seed=2)}
    before = KERNEL(example["x_TI"], packed)
    for row in (0, num_tokens - 1):
        after = KERNEL(with_attacker(example, row)["x_TI"], packed)
        is_other = find_other_outputs(example, row, num_tokens)
        assert torch.equal(before[is_other], after[is_other])
        assert not after[row].isfinite().any()


def test_writes_nothing_beside_its_own_columns() -> None:
    """Parts of several formats share a result; the kernel masks what its tiles have too much."""
    packed = pack(STORED["several"], None, torch.float32)
    got = KERNEL(randn(3, 64, seed=9), packed)
    starts = (0, 5, 11, 14)
    for part, start in zip(STORED["several"], starts, strict=True):
        alone = KERNEL(randn(3, 64, seed=9), pack([part], None, torch.float32))
        torch.testing.assert_close(got[:, start : start + part.shape[0]], alone)


def test_reads_rows_within_a_wider_tensor() -> None:
    packed = pack([LoadedTensor(randn(9, 20))], None, torch.float32, "int8")
    wide = randn(5, 50, seed=1)
    torch.testing.assert_close(
        KERNEL(wide[:, 10:30], packed), KERNEL(wide[:, 10:30].contiguous(), packed)
    )
    assert KERNEL(wide[:, 10:30].T.contiguous().T, packed).shape == (5, 9)


@pytest.mark.parametrize("name", ROUNDED)
def test_what_is_kept_is_what_was_said(name: str) -> None:
    source = LoadedTensor(randn(9, 20))
    kept = SPEC.keep(source, name)
    packed = pack([source], None, torch.bfloat16, name)
    assert (kept.format, kept.num_bytes) == (packed.format, packed.num_bytes)
    assert SPEC.keep(source, "auto") is None  # dense


def test_codes_of_8_bits_are_exact_in_bfloat16() -> None:
    """Codes less their zeros, -256 to 255: no rounding but that of the scale's product."""
    source = make_int_tensor("GPTQ", 16, 128, 64, bits=8)
    got = read_back(pack([source], None, torch.bfloat16), torch.bfloat16)
    assert torch.equal(got, source.load().to(DEVICE, torch.bfloat16))


def test_weights_whose_orders_differ_are_not_joined() -> None:
    """A GPTQ file made with act-order: each weight has its own order of inputs."""
    sources = [make_int_tensor("GPTQ", 8, 64, 32, seed=seed, is_in_order=False) for seed in (0, 1)]
    order_I = sources[1].group_of_I.load().flip(0)
    sources.append(replace(sources[1], group_of_I=LoadedTensor(order_I)))
    packed = pack(sources, None, torch.float32)
    assert [part.num_outputs for part in packed.parts] == [16, 8]
    expected = torch.cat([source.load() for source in sources]).to(DEVICE)
    torch.testing.assert_close(read_back(packed), expected, rtol=3e-7, atol=1e-6)


def test_groups_of_several_sizes_are_dense() -> None:
    """What no kernel of tiles can walk."""
    source = make_int_tensor("GPTQ", 16, 128, 64, is_in_order=False)
    groups_I = source.group_of_I.load().clone()
    groups_I[0] = 1
    source = replace(source, group_of_I=LoadedTensor(groups_I))
    assert SPEC.keep(source, "auto") is None
    packed = pack([source], None, torch.float32)
    torch.testing.assert_close(packed.weight_OI, source.load().to(DEVICE))


def test_what_does_not_fit_is_refused() -> None:
    packed = pack([LoadedTensor(randn(9, 20))], None, torch.float32, "int8")
    for x in (randn(2, 21), randn(20), randn(2, 20).double()):
        with pytest.raises(KernelInputError, match="for a weight of"):
            KERNEL(x, packed)
    source = LoadedTensor(randn(9, 20))
    with pytest.raises(KernelInputError, match="use int4 or auto"):
        pack([source], None, torch.float32, "w4a8")
    with pytest.raises(KernelInputError, match="cannot join"):
        pack([source, LoadedTensor(randn(9, 21))], None, torch.float32, "int8")
    with pytest.raises(KernelInputError, match="a bias of"):
        pack([source], randn(8), torch.float32, "int8")
    with pytest.raises(KernelInputError, match="scales of"):
        pack([make_fp8(130, 200, (3, 2))], None, torch.float32)
