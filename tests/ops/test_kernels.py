"""Every kernel of every installed plugin, and every reference, against the reference.

A stranger's plugin is walked over too: install it, run this file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any

import pytest
import torch

from llmplug import KernelSpec
from llmplug.ops import REFERENCES, KernelTable, Op
from llmplug.ops.attention_examples import apply_attention
from llmplug.ops.decoder_layer_examples import apply_decoder_layer
from llmplug.ops.linear import apply_linear
from llmplug.ops.table import make_reference_table

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
REFERENCE_TABLE = make_reference_table(REFERENCES)
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


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Fill fresh memory with NaN, so that an output element never written to shows."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)


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


def reference_of(op: Op) -> Any:
    return REFERENCE_TABLE if op.compose is not None else op.reference


def copied(example: Mapping[str, Any]) -> dict[str, Any]:
    """A kernel may write to what it is allowed to; the other side gets its own tensors."""
    return {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in example.items()}


def call(op: Op, kernel: Any, example: Mapping[str, Any]) -> tuple[torch.Tensor, ...]:
    """The outputs of one kernel on one example."""
    apply: dict[str, Callable[..., torch.Tensor]] = {
        "attention": apply_attention,
        "linear": apply_linear,
        "decoder_layer": apply_decoder_layer,
    }
    outputs = apply[op.name](kernel, example) if op.name in apply else kernel(**copied(example))
    return outputs if isinstance(outputs, tuple) else (outputs,)


@pytest.mark.parametrize(("spec", "device", "dtype"), CASES)
def test_kernel_equals_reference(spec: KernelSpec, device: str, dtype: str) -> None:
    kernel, op, examples = load(spec, device, dtype)
    rtol, atol = op.tolerances[dtype]
    for example in examples:
        if op.compare is not None:
            pairs = op.compare(kernel, reference_of(op), example)
        else:
            got, expected = call(op, kernel, example), call(op, op.reference, example)
            pairs = list(zip(got, expected, strict=True))
        for got_tensor, expected_tensor in pairs:
            assert not expected_tensor.isnan().any()
            torch.testing.assert_close(got_tensor, expected_tensor, rtol=rtol, atol=atol)


@pytest.mark.parametrize(("spec", "device", "dtype"), CASES)
def test_row_does_not_depend_on_its_neighbours(spec: KernelSpec, device: str, dtype: str) -> None:
    """The first row (sequence) is bitwise the same whatever the others hold."""
    kernel, op, examples = load(spec, device, dtype)
    for example in examples:
        if "lens" in example:
            if len(example["lens"]) < 2:
                continue
            first = example["lens"][0][0]
            changed = {**example, "neighbours": 99}
        else:
            first, changed = 1, with_other_neighbours(example)
        before, after = call(op, kernel, example), call(op, kernel, changed)
        for x, y in zip(before, after, strict=True):
            assert torch.equal(x[:first], y[:first])


def with_other_neighbours(example: Mapping[str, Any]) -> dict[str, Any]:
    """Huge values in all rows but the first, of every argument whose first dimension is T."""
    changed = copied(example)
    for name, value in changed.items():
        is_per_token = name.rpartition("_")[2].startswith("T") and value.is_floating_point()
        if is_per_token and isinstance(value, torch.Tensor):
            value[1:] *= 1000
    return changed


@pytest.mark.parametrize(("spec", "device", "dtype"), CASES)
def test_kernel_leaves_its_inputs_alone(spec: KernelSpec, device: str, dtype: str) -> None:
    kernel, op, examples = load(spec, device, dtype)
    if op.compare is not None:
        pytest.skip("its inputs are made inside the comparison")
    may_write = {"add_rms_norm": {"residual_TD"}}.get(op.name, set())
    for example in examples:
        passed = copied(example)
        kernel(**passed)
        for name, value in example.items():
            if isinstance(value, torch.Tensor) and name not in may_write:
                assert torch.equal(passed[name], value), name
