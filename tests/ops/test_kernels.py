"""Every kernel of every installed plugin, and every reference, against the reference.

A stranger's plugin is walked over too: install it, run this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

import pytest
import torch

from llmplug import KernelSpec
from llmplug.ops import REFERENCES, KernelTable, Op
from tests.ops.kernel_checks import (
    DTYPES,
    REFERENCE_TABLE,
    check_equals_reference,
    check_first_row_stands_alone,
    check_leaves_its_inputs_alone,
    check_rows_beside_an_attacker,
    poisoned_memory,  # noqa: F401 - a fixture
)

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def find_kernels() -> list[KernelSpec]:
    references = [
        KernelSpec(
            op=op.name,
            name="reference",
            supports=lambda device, dtype: None,
            load=lambda name=op.name: getattr(REFERENCE_TABLE, name),
        )
        for op in REFERENCES.values()
    ]
    plugins = [point.load() for point in sorted(entry_points(group="llmplug"))]
    offered = [plugin.llmplug_kernels() for plugin in plugins if hasattr(plugin, "llmplug_kernels")]
    return references + [spec for specs in offered for spec in specs]


CASES = [
    pytest.param(spec, device, dtype, id=f"{spec.op}-{spec.name}-{device}-{dtype}")
    for spec in find_kernels()
    for device in DEVICES
    for dtype in DTYPES
]


def load(spec: KernelSpec, device: str, dtype: str) -> tuple[Any, Op, list[Mapping[str, Any]]]:
    assert spec.op in REFERENCES, f"{spec.name} is a kernel of an op without a reference"
    reason = spec.supports(device, dtype)
    if reason is not None:
        pytest.skip(reason)
    op = REFERENCES[spec.op]
    kernel = spec.load() if op.compose is None else load_with_parts(spec)
    return kernel, op, list(op.example_inputs(torch.device(device), DTYPES[dtype]))


def load_with_parts(spec: KernelSpec) -> KernelTable:
    """A table of references, but for a fused kernel and what it builds on."""
    mine = {each.op: each.load() for each in find_kernels() if each.name == spec.name}
    wanted = (spec.op, *spec.needs)
    kernels = {op: getattr(REFERENCE_TABLE, op) for op in REFERENCES}
    return KernelTable({**kernels, **{op: mine[op] for op in wanted}})


@pytest.mark.parametrize(("spec", "device", "dtype"), CASES)
def test_kernel_equals_reference(spec: KernelSpec, device: str, dtype: str) -> None:
    kernel, op, examples = load(spec, device, dtype)
    check_equals_reference(op, kernel, examples, dtype)


@pytest.mark.parametrize(("spec", "device", "dtype"), CASES)
def test_row_does_not_depend_on_its_neighbours(spec: KernelSpec, device: str, dtype: str) -> None:
    kernel, op, examples = load(spec, device, dtype)
    check_first_row_stands_alone(op, kernel, examples)


@pytest.mark.parametrize(("spec", "device", "dtype"), CASES)
def test_rows_do_not_see_an_attacker_among_them(spec: KernelSpec, device: str, dtype: str) -> None:
    kernel, op, examples = load(spec, device, dtype)
    check_rows_beside_an_attacker(op, kernel, examples)


@pytest.mark.parametrize(("spec", "device", "dtype"), CASES)
def test_kernel_leaves_its_inputs_alone(spec: KernelSpec, device: str, dtype: str) -> None:
    kernel, op, examples = load(spec, device, dtype)
    if op.compare is not None:
        pytest.skip("its inputs are made inside the comparison")
    check_leaves_its_inputs_alone(op, kernel, examples)
