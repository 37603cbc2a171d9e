"""The check of kernels finds what is planted, and passes what is right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from llmplug import KernelSpec
from llmplug.ops import DenseLinear, PagedAttention, rms_norm, silu_mul
from llmplug.testing import check_kernel


def make_spec(op: str, kernel: Any, reason: str | None = None, **fields: Any) -> KernelSpec:
    return KernelSpec(
        op=op, name="mine", supports=lambda device, dtype: reason, load=lambda: kernel, **fields
    )


def leave_the_last_unwritten(x_TD, weight_D, *, eps):
    out_TD = torch.empty_like(x_TD)
    flat = out_TD.view(-1)[:-1]
    flat.copy_(rms_norm(x_TD, weight_D, eps=eps).reshape(-1)[:-1])
    return out_TD


def read_the_next_row(x_TD, weight_D, *, eps):
    """Right to within the tolerance: a millionth of the next row's first number is added."""
    out_TD = rms_norm(x_TD, weight_D, eps=eps)
    if x_TD.shape[0] > 1:
        out_TD[:-1] += x_TD[1:].flatten(1)[:, :1].view(-1, *[1] * (x_TD.dim() - 1)) * 1e-7
    return out_TD


def read_the_row_before(x_TD, weight_D, *, eps):
    out_TD = rms_norm(x_TD, weight_D, eps=eps)
    if x_TD.shape[0] > 1:
        out_TD[1:] += x_TD[:-1].flatten(1)[:, :1].view(-1, *[1] * (x_TD.dim() - 1)) * 1e-7
    return out_TD


def scale_by_the_batch(x_TD, weight_D, *, eps):
    """As a quantised kernel does that takes one scale for all rows."""
    if not x_TD.numel():
        return x_TD.clone()
    scale = x_TD.abs().max() * 1e-7
    return rms_norm((x_TD / scale).round() * scale, weight_D, eps=eps)


def forget_eps(x_TD, weight_D, *, eps):
    return rms_norm(x_TD, weight_D, eps=0)


def edit_the_input(x_TD, weight_D, *, eps):
    out_TD = rms_norm(x_TD, weight_D, eps=eps)
    x_TD.zero_()
    return out_TD


def fail_on_an_empty_batch(x_TD, weight_D, *, eps):
    x_TD.view(-1)[0]
    return rms_norm(x_TD, weight_D, eps=eps)


def write_behind_the_output(x_TD, weight_D, *, eps):
    out_TD = torch.empty(x_TD.shape, dtype=x_TD.dtype)
    out_TD.copy_(rms_norm(x_TD, weight_D, eps=eps))
    size = out_TD.untyped_storage().nbytes() // out_TD.element_size()
    end = out_TD.storage_offset() + out_TD.numel()
    if end < size:
        torch.as_strided(out_TD, (1,), (1,), end).fill_(0)
    return out_TD


def read_behind_the_input(x_TD, weight_D, *, eps):
    """Whatever stands behind the input is multiplied by nothing, as a sloppy mask does it."""
    out_TD = rms_norm(x_TD, weight_D, eps=eps)
    size = x_TD.untyped_storage().nbytes() // x_TD.element_size()
    end = x_TD.storage_offset() + x_TD.numel()
    if end < size:
        out_TD = out_TD + torch.as_strided(x_TD, (1,), (1,), end) * 0
    return out_TD


BROKEN: list[tuple[Callable[..., Any], str]] = [
    (leave_the_last_unwritten, "never written"),
    (read_the_next_row, "the first row changes with what"),
    (read_the_row_before, "a row beside row 0, which is extreme, changes"),
    (scale_by_the_batch, "changes with what other rows hold"),
    (forget_eps, "example 7 .*eps 1e-06.* differs from llmplug.ops.rms_norm"),
    (edit_the_input, "writes to its argument x_TD"),
    (write_behind_the_output, "written behind a tensor"),
    (read_behind_the_input, "mask every load"),
]


@pytest.mark.parametrize(("kernel", "words"), BROKEN, ids=[kernel.__name__ for kernel, _ in BROKEN])
def test_a_planted_bug_is_found(kernel: Callable[..., Any], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_kernel(make_spec("rms_norm", kernel))


def test_an_empty_batch_is_tried() -> None:
    with pytest.raises(IndexError):
        check_kernel(make_spec("rms_norm", fail_on_an_empty_batch))


def test_weights_are_packed_with_the_kernel() -> None:
    class ForgetsTheBias(DenseLinear):
        def pack(self, sources, bias_O, **settings):
            return super().pack(sources, None, **settings)

    check_kernel(make_spec("linear", DenseLinear()))
    with pytest.raises(AssertionError, match=r"differs from llmplug\.ops\.linear"):
        check_kernel(make_spec("linear", ForgetsTheBias()))


def test_a_kernel_that_says_so_is_tried_with_scales_of_a_cache() -> None:
    class ForgetsScales(PagedAttention):
        def store(self, cache, *tensors):
            super().store(replace(cache, key_scale=1.0, value_scale=1.0), *tensors)

        def attend(self, q_TNH, cache, batch, **settings):
            cache = replace(cache, key_scale=1.0, value_scale=1.0)
            return super().attend(q_TNH, cache, batch, **settings)

    check_kernel(make_spec("attention", ForgetsScales()))
    says_so = make_spec("attention", ForgetsScales(), supports_scales=lambda device: None)
    with pytest.raises(AssertionError, match=r"differs from llmplug\.ops\.attention"):
        check_kernel(says_so)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_reference_itself_passes(dtype: str) -> None:
    check_kernel(make_spec("rms_norm", rms_norm), dtype=dtype)
    check_kernel(make_spec("silu_mul", silu_mul), dtype=dtype)


def test_what_cannot_be_tried_is_said() -> None:
    with pytest.raises(AssertionError, match=r"no op of llmplug\.ops; known ops: .*rms_norm"):
        check_kernel(make_spec("rmsnorm", rms_norm))
    with pytest.raises(AssertionError, match="rms_norm/mine does not run on cpu in float32: no"):
        check_kernel(make_spec("rms_norm", rms_norm, reason="no"))
    with pytest.raises(AssertionError, match="needs kernels of its name for linear: give them"):
        check_kernel(make_spec("decoder_layer", None, needs=("linear",)))


def test_memory_is_as_it_was_afterwards() -> None:
    before = torch.empty
    with pytest.raises(AssertionError):
        check_kernel(make_spec("rms_norm", leave_the_last_unwritten))
    assert torch.empty is before
    assert not torch.are_deterministic_algorithms_enabled()
