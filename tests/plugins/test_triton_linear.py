"""int8 weights in Triton, in the interpreter where there is no GPU: against plain torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llmplug import KernelInputError
from llmplug.ops import REFERENCES, LoadedTensor
from llmplug_triton import llmplug_kernels
from tests.ops.kernel_checks import DTYPES, poisoned_memory  # noqa: F401 - a fixture

pytest.importorskip("triton", reason="triton is not installed")
(SPEC,) = [spec for spec in llmplug_kernels() if spec.op == "linear"]
KERNEL = SPEC.load()
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# numpy, which stands in for the GPU, warns of the NaN that a test is about.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def pack(sources: list[Any], bias_O: torch.Tensor | None, dtype: torch.dtype) -> Any:
    return KERNEL.pack(sources, bias_O, device=DEVICE, dtype=dtype, format="int8")


@pytest.mark.parametrize("dtype", DTYPES)
def test_product_is_that_of_the_rounded_weights(dtype: str) -> None:
    rtol, atol = REFERENCES["linear"].tolerances[dtype]
    for example in REFERENCES["linear"].example_inputs(DEVICE, DTYPES[dtype]):
        packed = pack(example["sources"], example["bias_O"], DTYPES[dtype])
        weight_OI = packed.weight_OI.double() * packed.scale_O.double()[:, None]
        expected = example["x_TI"].double() @ weight_OI.T
        if example["bias_O"] is not None:
            expected += example["bias_O"].double()
        got = KERNEL(example["x_TI"], packed)
        assert got.dtype is DTYPES[dtype]
        torch.testing.assert_close(got.double(), expected, rtol=rtol, atol=atol)


def test_weights_are_rounded_to_the_nearest() -> None:
    weight_OI = randn(7, 50) * torch.tensor([1e-6, 1.0, 1e6, 0.0, 1.0, 1.0, 1.0])[:, None]
    packed = pack([LoadedTensor(weight_OI)], None, torch.float32)
    back_OI = packed.weight_OI.double() * packed.scale_O.double()[:, None]
    largest_O = weight_OI.double().abs().amax(1)
    # Half a step of 1/127 of the largest, and float32's rounding of the quotient.
    assert ((back_OI - weight_OI.double()).abs() <= (largest_O * 0.5001 / 127)[:, None]).all()
    assert packed.weight_OI.abs().amax(1).tolist() == [127, 127, 127, 0, 127, 127, 127]


def test_weights_too_small_for_a_scale_become_zeros() -> None:
    tiny = 2.0**-149  # the smallest number above 0
    weight_OI = torch.tensor([[180 * tiny, -tiny], [1.0, -0.5], [-127 * 2.0**-126, 2.0**-126]])
    packed = pack([LoadedTensor(weight_OI.to(DEVICE))], None, torch.float32)
    assert packed.weight_OI.tolist() == [[0, 0], [127, -64], [-127, 1]]


def test_row_is_the_same_alone_and_in_a_batch() -> None:
    packed = pack([LoadedTensor(randn(70, 100))], randn(70, seed=1), torch.float32)
    x_TI = randn(130, 100, seed=2)
    batch = KERNEL(x_TI, packed)
    # In the interpreter the last bits differ by a row's place in its tile of 64, probably as the
    # products are numpy's there: only rows of one place are compared.
    for row in (0, 64, 128) if DEVICE.type == "cpu" else (0, 63, 64, 129):
        assert torch.equal(KERNEL(x_TI[row : row + 1], packed), batch[row : row + 1])
    x_TI[1:] = float("nan")
    spoiled = KERNEL(x_TI, packed)
    assert torch.equal(spoiled[0], batch[0])
    assert spoiled[1:].isnan().all()


def test_reads_rows_within_a_wider_tensor() -> None:
    packed = pack([LoadedTensor(randn(9, 20))], None, torch.float32)
    wide = randn(5, 50, seed=1)
    torch.testing.assert_close(
        KERNEL(wide[:, 10:30], packed), KERNEL(wide[:, 10:30].contiguous(), packed)
    )
    assert KERNEL(wide[:, 10:30].T.contiguous().T, packed).shape == (5, 9)


def test_what_is_kept_is_what_was_said() -> None:
    source = LoadedTensor(randn(9, 20))
    kept = SPEC.keep(source, "int8")
    packed = pack([source], None, torch.bfloat16)
    assert (kept.format, kept.num_bytes) == (packed.format, packed.num_bytes)
    assert SPEC.keep(source, "auto") is None  # dense


def test_what_does_not_fit_is_refused() -> None:
    packed = pack([LoadedTensor(randn(9, 20))], None, torch.float32)
    for x in (randn(2, 21), randn(20), randn(2, 20).double()):
        with pytest.raises(KernelInputError, match="for a weight of"):
            KERNEL(x, packed)
    with pytest.raises(KernelInputError, match="int4"):
        KERNEL.pack([LoadedTensor(randn(9, 20))], None, device=DEVICE, dtype=torch.float32,
                    format="int4")  # fmt: skip
