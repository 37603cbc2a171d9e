"""The torch references of quantised layouts, against the numbers that were packed."""

from __future__ import annotations

import pytest
import torch

from llmplug import KernelInputError
from llmplug.ops import Fp8Tensor, LoadedTensor
from tests.ops.packed_weights import make_int_tensor, make_numbers


@pytest.mark.parametrize("layout", ["GPTQ", "GPTQ_V2", "AWQ"])
def test_codes_come_back(layout: str) -> None:
    codes_IO, zeros_GO, scales_GO = make_numbers(24, 128, 32, seed=4)
    group_I = torch.arange(128) // 32
    expected_IO = (codes_IO - zeros_GO[group_I]).double() * scales_GO[group_I].double()
    tensor = make_int_tensor(layout, 24, 128, 32, seed=4)
    assert tensor.shape == (24, 128)
    assert tensor.group == 32
    torch.testing.assert_close(tensor.load().double(), expected_IO.T, rtol=1e-6, atol=0)
    with pytest.raises(KernelInputError, match=layout):
        tensor.raw()


@pytest.mark.parametrize("bits", [4, 8])
def test_groups_out_of_order_come_back(bits: int) -> None:
    codes_IO, zeros_GO, scales_GO = make_numbers(8, 64, 32, seed=5, bits=bits)
    if bits == 8:
        zeros_GO[0, 0], codes_IO[0, 0] = 256, 0  # as the tensor has them
    group_I = torch.arange(64) % 2
    expected_IO = (codes_IO - zeros_GO[group_I]).double() * scales_GO[group_I].double()
    tensor = make_int_tensor("GPTQ", 8, 64, 32, seed=5, bits=bits, is_in_order=False)
    assert tensor.codes() is None
    torch.testing.assert_close(tensor.load().double(), expected_IO.T, rtol=1e-6, atol=0)
    codes, order_I = tensor.codes_by_group()
    assert tensor.has_groups_of_one_size()
    assert group_I[order_I.long()].tolist() == [0] * 32 + [1] * 32
    by_group_IO = expected_IO[order_I.long()]
    torch.testing.assert_close(codes.dequantise().double(), by_group_IO.T, rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", [(1,), (), (200,), (200, 1), (2, 3)])
def test_fp8_scales_are_spread(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    codes = (torch.randn(200, 300, generator=generator) * 50).to(torch.float8_e4m3fn)
    scales = torch.rand(shape, generator=generator) + 0.1
    got = Fp8Tensor(weight=LoadedTensor(codes), scales=LoadedTensor(scales)).load()
    for o, i in ((0, 0), (127, 127), (128, 127), (127, 128), (199, 255), (199, 299)):
        scale = scales[o // 128, i // 128] if shape == (2, 3) else scales.flatten()[
            o if scales.numel() == 200 else 0
        ]  # fmt: skip
        assert got[o, i].item() == pytest.approx(codes[o, i].item() * scale.item(), rel=1e-6)


def test_fp8_scales_that_do_not_fit_are_refused() -> None:
    codes = torch.zeros(200, 300).to(torch.float8_e4m3fn)
    for shape in ((199,), (3, 2), (2, 2)):
        with pytest.raises(KernelInputError, match="scales of"):
            Fp8Tensor(weight=LoadedTensor(codes), scales=LoadedTensor(torch.ones(shape))).load()


@pytest.mark.parametrize("layout", ["GPTQ", "GPTQ_V2", "AWQ"])
def test_parts_of_codes_are_those_of_the_whole(layout: str) -> None:
    tensor = make_int_tensor(layout, 24, 128, 32, seed=4)
    whole = tensor.load()
    for start, end in ((0, 8), (8, 24)):
        assert torch.equal(tensor.slice(0, start, end).load(), whole[start:end])
    part = tensor.slice(1, 32, 96)
    assert (part.shape, part.group) == ((24, 64), 32)
    assert torch.equal(part.load(), whole[:, 32:96])
    assert torch.equal(tensor.slice(0, 8, 16).slice(1, 64, 128).load(), whole[8:16, 64:])
    with pytest.raises(KernelInputError, match="16 to 64 would cut its groups of 32"):
        tensor.slice(1, 16, 64)
    with pytest.raises(KernelInputError, match="0 to 12 would cut its words of 8"):
        tensor.slice(0, 0, 12)


def test_one_group_of_all_inputs_is_shared() -> None:
    tensor = make_int_tensor("GPTQ", 8, 64, 64, seed=4)
    part = tensor.slice(1, 16, 64)
    assert (part.shape, part.group) == ((8, 48), 48)
    assert torch.equal(part.load(), tensor.load()[:, 16:])


def test_inputs_of_groups_out_of_order_stay_together() -> None:
    tensor = make_int_tensor("GPTQ", 8, 64, 32, seed=5, bits=8, is_in_order=False)
    with pytest.raises(KernelInputError, match="out of order, as desc_act makes them"):
        tensor.slice(1, 0, 32)
    assert torch.equal(tensor.slice(0, 4, 8).load(), tensor.load()[4:8])


@pytest.mark.parametrize("shape", [(1,), (), (200,), (200, 1), (2, 3)])
def test_parts_of_fp8_have_their_scales(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    codes = (torch.randn(200, 300, generator=generator) * 50).to(torch.float8_e4m3fn)
    scales = torch.rand(shape, generator=generator) + 0.1
    tensor = Fp8Tensor(weight=LoadedTensor(codes), scales=LoadedTensor(scales))
    whole = tensor.load()
    for dimension, bounds in ((0, ((0, 128), (128, 200))), (1, ((0, 128), (128, 256), (256, 300)))):
        for start, end in bounds:
            part = tensor.slice(dimension, start, end)
            assert torch.equal(part.load(), whole.narrow(dimension, start, end - start))
    if shape == (2, 3):
        with pytest.raises(KernelInputError, match="0 to 100 would cut its blocks of 128"):
            tensor.slice(0, 0, 100)
    else:
        assert torch.equal(tensor.slice(0, 0, 100).load(), whole[:100])
