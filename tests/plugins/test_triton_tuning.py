"""What the Triton kernels say of their free parameters; interpreted where there is no GPU."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from llmplug import KernelSpec
from llmplug.ops import REFERENCES, LoadedTensor, ModelSizes, Tunable
from llmplug.ops.attention_examples import apply_attention, make_attention_example
from llmplug.ops.autotune import Search, TunedKernel, take_kernel
from llmplug.ops.model_sizes import USUAL_SIZES
from llmplug.ops.rope_store import apply_rope_store
from llmplug.ops.stopwatch import make_stopwatch
from llmplug_triton import llmplug_kernels
from tests.ops.kernel_checks import poisoned_memory  # noqa: F401 - a fixture

pytest.importorskip("triton", reason="triton is not installed")
# numpy, which stands in for the GPU, warns of the inf and NaN that some examples are about.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
F32 = torch.float32
SPECS = {spec.op: spec for spec in llmplug_kernels()}
TUNABLE = {op: spec for op, spec in SPECS.items() if spec.tunables is not None}
ALL = [
    pytest.param(spec, tunable, id=f"{op}-{tunable.name}")
    for op, spec in TUNABLE.items()
    for tunable in spec.tunables(DEVICE.type)  # type: ignore[misc]
]
# Small enough for the interpreter.
SIZES = replace(
    USUAL_SIZES["tiny"], weights=((40, 128),), formats=(("int8", 0), ("Q4_0", 0), ("GPTQ", 64))
)


def take(spec: KernelSpec) -> TunedKernel:
    return take_kernel(spec, list(SPECS.values()), REFERENCES)


class Recorder:
    """A tuning that keeps what launchers ask for, and gives them their defaults."""

    def __init__(self) -> None:
        self.asked: set[tuple[str, tuple[int | str, ...]]] = set()

    def find_sizes(self, tunable: str, dtype: torch.dtype, shape: Any, default: Any) -> Any:
        self.asked.add((tunable, shape))
        return default


def ones(*shape: int) -> torch.Tensor:
    return torch.ones(shape, device=DEVICE)


def call_norm(kernel: Any, num_rows: int) -> None:
    kernel(ones(num_rows, 24), ones(24), eps=1e-5)


def call_add_norm(kernel: Any, num_rows: int) -> None:
    kernel(ones(num_rows, 24), ones(num_rows, 24), ones(24), eps=1e-5)


def call_attention(kernel: Any, num_rows: int) -> None:
    lens = [(1, 5 * num_rows)] * num_rows + [(num_rows + 1, 40)] * num_rows
    example = make_attention_example(lens, heads=(4, 2, 16))
    apply_attention(kernel, {**example, "device": DEVICE, "dtype": F32})


def call_linear(kernel: Any, num_rows: int) -> None:
    packed = kernel.pack([LoadedTensor(torch.ones(9, 40))], None, device=DEVICE, dtype=F32)
    kernel(torch.ones(num_rows, 40, device=DEVICE), packed)


def call_filter(kernel: Any, num_rows: int) -> None:
    ones_S = ones(num_rows)
    kernel(ones(num_rows, 24), ones_S.long() * 3, ones_S * 0.9, ones_S * 0.1)


def call_rope_store(ops: Any, num_rows: int) -> None:
    (example,) = REFERENCES["rope_store"].example_inputs(DEVICE, F32)[1:2]
    apply_rope_store(ops, {**example, "num_tokens": num_rows})


# Sums run in another order with other sizes of these: nothing may depend on the number of rows.
CALLS: dict[str, Callable[[Any, int], None]] = {
    "rms_norm": call_norm,
    "add_rms_norm": call_add_norm,
    "attention": call_attention,
    "filter_tokens": call_filter,
    "rope_store": call_rope_store,
    "linear": call_linear,
}


def test_calls_are_those_of_all_kernels_whose_sums_depend_on_their_sizes() -> None:
    kinds = {op: {t.is_exact for t in spec.tunables(DEVICE.type)} for op, spec in TUNABLE.items()}  # type: ignore[misc]
    assert set(CALLS) == {op for op, are_exact in kinds.items() if False in are_exact}


@pytest.mark.parametrize("op", CALLS)
def test_sizes_that_change_sums_are_the_same_for_any_number_of_rows(op: str) -> None:
    spec, asked = TUNABLE[op], []
    for num_rows in (1, 2, 9):
        recorder = Recorder()
        CALLS[op](take(spec).load(recorder), num_rows)
        asked.append(recorder.asked)
    tunables = [t for t in spec.tunables(DEVICE.type) if not t.is_exact]  # type: ignore[misc]
    assert {name for name, _ in asked[0]} == {tunable.name for tunable in tunables}
    assert len(asked[0]) == len(tunables)
    assert asked[0] == asked[1] == asked[2]
    assert all("rows" not in tunable.shape_names for tunable in tunables)


@pytest.mark.parametrize(("spec", "tunable"), ALL)
def test_launcher_asks_as_the_tunable_says(spec: KernelSpec, tunable: Tunable) -> None:
    recorder = Recorder()
    kernel = take(spec).load(recorder)
    for workload in tunable.workloads(SIZES, DEVICE, F32):
        workload.prepare(kernel)()
        assert workload.num_bytes > 0
    shapes = [shape for name, shape in recorder.asked if name == tunable.name]
    assert shapes
    assert {len(shape) for shape in shapes} == {len(tunable.shape_names)}
    names = {tuple(sizes) for sizes in tunable.candidates}
    assert len(names) == 1, "candidates of other parameters"


@pytest.mark.parametrize(("spec", "tunable"), ALL)
def test_search_finds_a_row_for_each_shape(spec: KernelSpec, tunable: Tunable) -> None:
    """The default's own sizes are among those that pass; so the whole way works."""
    sizes: ModelSizes = replace(SIZES, formats=SIZES.formats[:1])
    search = Search(
        sizes=sizes,
        device=DEVICE,
        device_name="here",
        dtype=F32,
        stopwatch=make_stopwatch(DEVICE),
    )
    recorder = Recorder()
    for workload in tunable.workloads(sizes, DEVICE, F32):
        workload.prepare(take(spec).load(recorder))()
    short = replace(tunable, candidates=tunable.candidates[:1])
    rows = list(search.find_rows(take(spec), short))
    shapes = {tuple(value for _, value in row.key.shape) for row in rows}
    assert shapes == {shape for name, shape in recorder.asked if name == tunable.name}
    for row in rows:
        assert row.sizes.keys() == tunable.candidates[0].keys()
        assert not [why for _, why in row.passed_over if "bits" not in why]


# --- weights in few bits --------------------------------------------------------------------------
def test_random_weights_equal_their_slow_twin() -> None:
    (tunable,) = [t for t in SPECS["linear"].tunables("cpu") if t.is_exact]  # type: ignore[misc]
    assert tunable.compare is not None
    pairs = tunable.compare(SPECS["linear"].load(), DEVICE, F32)
    assert len(pairs) == 20
    for got, expected in pairs:
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["int8", "int4", "fp8"])
def test_slow_twin_reads_what_pack_wrote(name: str) -> None:
    from llmplug_triton.weight_examples import dequantise

    weight_OI = torch.randn(33, 130, generator=torch.Generator().manual_seed(4))
    packed = (
        SPECS["linear"]
        .load()
        .pack([LoadedTensor(weight_OI)], None, device=DEVICE, dtype=F32, format=name)
    )
    (part,) = packed.parts
    step = weight_OI.abs().amax(1, keepdim=True) * {"int8": 0.01, "int4": 0.11, "fp8": 0.07}[name]
    assert ((dequantise(part).cpu() - weight_OI).abs() <= step).all()


# --- hash of a source -----------------------------------------------------------------------------
KERNEL = """
import triton
FACTOR = 2
UNUSED = 1

@triton.jit
def inner(x):
    return x * FACTOR

@triton.jit
def outer(x):
    return inner(x) + 1

def launch(x):
    return outer[(1,)](x)
"""


def hash_of(path: Path, text: str) -> str:
    from llmplug_triton.tuning import hash_source

    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return hash_source(module.outer)


def test_hash_is_that_of_the_kernel_and_all_that_it_calls(tmp_path: Path) -> None:
    hashes = {
        hash_of(tmp_path / f"kernel{number}.py", KERNEL.replace(old, new))
        for number, (old, new) in enumerate(
            [("", ""), ("UNUSED = 1", "UNUSED = 3"), ("(1,)", "(2,)")]
        )
    }
    assert len(hashes) == 1
    for number, (old, new) in enumerate(
        [("+ 1", "+ 2"), ("FACTOR = 2", "FACTOR = 3"), ("x *", "x +")]
    ):
        changed = hash_of(tmp_path / f"other{number}.py", KERNEL.replace(old, new))
        assert changed not in hashes
        hashes.add(changed)
