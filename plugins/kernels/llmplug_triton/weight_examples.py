"""Random weights in few bits: what `scaled_product` is tuned on, and what it is compared with.

Legend: T packed tokens, I inputs, O outputs, G groups of inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import torch

from llmplug import KernelInputError
from llmplug.ops import ModelSizes, Workload
from llmplug_triton.linear import PackedLinear
from llmplug_triton.scaled_product import (
    MINIMUM_STORED,
    ZERO_8,
    ZERO_STORED,
    ScaledWeight,
    choose_block,
    make_product_tunable,
)
from llmplug_triton.tensors import refuse_gpu_without_fp8
from llmplug_triton.tuning import list_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

_SPREAD = 0.02  # as models are initialised


@dataclass(frozen=True, slots=True)
class _Layout:
    """How `weight_formats.py` lays a format out.

    Attributes:
        group: inputs that share a scale; 0: all of a row.
        zero: of 4 bits; None: it has 8.
    """

    group: int
    scale: torch.dtype
    zero: int | None = None
    code: torch.dtype = torch.uint8


_LAYOUTS = {
    "int8": _Layout(0, torch.float32, code=torch.int8),
    "int4": _Layout(64, torch.float16, MINIMUM_STORED),
    "fp8": _Layout(0, torch.float32, code=torch.float8_e4m3fn),
    "Q8_0": _Layout(32, torch.float16, code=torch.int8),
    "Q4_0": _Layout(32, torch.float16, ZERO_8),
    "Q4_1": _Layout(32, torch.float16, MINIMUM_STORED),
    "GPTQ": _Layout(128, torch.float16, ZERO_STORED),
    "GPTQ_V2": _Layout(128, torch.float16, ZERO_STORED),
    "AWQ": _Layout(128, torch.float16, ZERO_STORED),
    "F8_E4M3": _Layout(0, torch.float32, code=torch.float8_e4m3fn),
}


def make_random_weight(
    name: str, group: int, outputs: int, inputs: int, device: torch.device
) -> ScaledWeight:
    """Make a weight of a format, the same each time.

    Args:
        group: inputs that share a scale; 0: as the format has it. The blocks of F8_E4M3 are as
            high as they are wide.
    """
    layout = _LAYOUTS[name]
    height = group if name == "F8_E4M3" and group else 1
    group = group or layout.group or -(-inputs // 128) * 128
    generator = torch.Generator(device).manual_seed(outputs * 31 + inputs)
    draw: dict[str, Any] = {"generator": generator, "device": device}
    groups = -(-inputs // group)
    scale = torch.rand((-(-outputs // height), groups), **draw) + 0.5
    shift_OG = None
    if layout.zero is not None:
        block = choose_block(group)
        row_bytes = -(-inputs // block) * block // 2
        code = torch.randint(0, 256, (outputs, row_bytes), dtype=torch.uint8, **draw)
        scale = scale * (_SPREAD / 4)
        if layout.zero == ZERO_STORED:
            shift_OG = torch.randint(0, 16, (outputs, groups), dtype=torch.uint8, **draw)
        elif layout.zero == MINIMUM_STORED:
            shift_OG = (-8 * scale).to(layout.scale)
    else:
        number_OI = torch.randn((outputs, inputs), **draw).clamp_(-4, 4)
        code = (number_OI * 31).to(layout.code)
        scale = scale * (_SPREAD / 31)
    return ScaledWeight(
        format=name,
        code=code,
        scale=scale.to(layout.scale),
        num_inputs=inputs,
        group=group,
        is_int4=layout.zero is not None,
        zero=layout.zero or ZERO_8,
        shift_OG=shift_OG,
        outputs_per_scale=height,
    )


def dequantise(weight: ScaledWeight) -> torch.Tensor:
    """Return the numbers that a weight stands for, weight_OI in float64: the slow twin."""
    inputs, code_OI = weight.num_inputs, weight.code.double()
    if weight.is_int4:
        halves = weight.code.view(weight.num_outputs, -1, 1, weight.block // 2)
        code_OI = torch.cat((halves & 15, halves >> 4), 2).flatten(1)[:, :inputs].double()
    scale_OI = weight.scale.double().repeat_interleave(weight.outputs_per_scale, 0)
    scale_OI = scale_OI[: weight.num_outputs].repeat_interleave(weight.group, 1)[:, :inputs]
    if weight.shift_OG is None:
        return (code_OI - 8 * weight.is_int4) * scale_OI
    shift_OI = weight.shift_OG.double().repeat_interleave(weight.group, 1)[:, :inputs]
    if weight.zero == ZERO_STORED:
        return (code_OI - shift_OI) * scale_OI
    return code_OI * scale_OI + shift_OI


def _compare_products(
    kernel: Any, device: torch.device, dtype: torch.dtype
) -> Sequence[tuple[torch.Tensor, torch.Tensor]]:
    """Multiply with a small weight of every format: pairs (got, expected)."""
    pairs = []
    for name, layout in _LAYOUTS.items():
        if not _is_at_hand(name, device):
            continue
        inputs = 3 * layout.group or 100
        weight = make_random_weight(name, 0, 70, inputs, device)
        generator = torch.Generator(device).manual_seed(1)
        bias_O = torch.randn(70, generator=generator, device=device)
        packed = PackedLinear((weight,), bias_O, inputs)
        for num_tokens in (1, 17):
            x_TI = torch.randn(num_tokens, inputs, generator=generator, device=device).to(dtype)
            expected_TO = x_TI.double() @ dequantise(weight).T + bias_O.double()
            pairs.append((kernel(x_TI, packed), expected_TO.to(dtype)))
    return pairs


def _list_products(
    sizes: ModelSizes, device: torch.device, dtype: torch.dtype
) -> Sequence[Workload]:
    """Return the products of a model's weights in its formats."""
    make = cache(make_random_weight)  # one is many megabytes, and serves all numbers of rows
    return [
        Workload(
            prepare=partial(_prepare, partial(make, name, group, *shape, device), rows, dtype),
            num_bytes=_count_bytes(name, group, *shape) + rows * sum(shape) * dtype.itemsize,
            num_flops=2.0 * rows * shape[0] * shape[1],
        )
        for name, group in sizes.formats
        if name in _LAYOUTS and _is_at_hand(name, device)
        for shape in sizes.weights
        if shape[1] % max(group or _LAYOUTS[name].group, 1) == 0
        for rows in list_rows(device)
    ]


def _prepare(
    make: partial[ScaledWeight], num_tokens: int, dtype: torch.dtype, kernel: Any
) -> partial[torch.Tensor]:
    weight = make()
    device, inputs = weight.code.device, weight.num_inputs
    generator = torch.Generator(device).manual_seed(2)
    x_TI = torch.randn(num_tokens, inputs, generator=generator, device=device).to(dtype)
    return partial(kernel, x_TI, PackedLinear((weight,), None, inputs))


def _count_bytes(name: str, group: int, outputs: int, inputs: int) -> float:
    layout = _LAYOUTS[name]
    code_bytes = outputs * inputs / (1 if layout.zero is None else 2)
    return code_bytes + outputs * inputs / (group or layout.group or inputs) * layout.scale.itemsize


def _is_at_hand(name: str, device: torch.device) -> bool:
    """Say whether a device has the format's numbers."""
    if _LAYOUTS[name].code is not torch.float8_e4m3fn:
        return True
    try:
        refuse_gpu_without_fp8(device, "")
    except KernelInputError:
        return False
    return True


SCALED_PRODUCT = make_product_tunable(workloads=_list_products, compare=_compare_products)
