"""The Triton kernels, in Triton's interpreter where there is no GPU, and compiled for one.

The interpreter runs each program in numpy: it shows wrong indices, masks and sums, and nothing of
speed, memory or what the GPU's own instructions round.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from llmplug import KernelInputError
from llmplug.ops import REFERENCES, PagedAttention
from llmplug.ops.attention_examples import make_attention_batch, make_attention_example
from llmplug_triton import llmplug_kernels
from tests.ops.kernel_checks import (
    DTYPES,
    call,
    check_equals_reference,
    check_first_row_stands_alone,
    check_leaves_its_inputs_alone,
    poisoned_memory,  # noqa: F401 - a fixture
    with_other_neighbours,
)

SPECS = {spec.op: spec for spec in llmplug_kernels()}

pytest.importorskip("triton", reason="triton is not installed")
tl = importlib.import_module("triton.language")
interpreter = importlib.import_module("triton.runtime.interpreter")
KERNELS = {op: spec.load() for op, spec in SPECS.items()}

# numpy, which stands in for the GPU, warns of the inf and NaN that some tests are about.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ROW_OPS = sorted(SPECS.keys() - {"attention", "linear"})
# Compiles what the launchers launch, for a GPU that is not there. Not run under the interpreter.
COMPILE = Path(__file__).parent / "compile_triton_kernels.py"


@pytest.fixture(autouse=True)
def interpreter_that_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Round to bfloat16 as GPUs do; the interpreter cuts the last bits off."""
    convert = interpreter._convert_float

    def convert_float(array, source, target, rounding_mode):
        if (source, target) != (tl.float32, tl.bfloat16):
            return convert(array, source, target, rounding_mode)
        rounded = torch.from_numpy(np.array(array)).to(torch.bfloat16)
        return rounded.view(torch.uint16).numpy()

    monkeypatch.setattr(interpreter, "_convert_float", convert_float)


def examples_of(op: str, dtype: str):
    return list(REFERENCES[op].example_inputs(DEVICE, DTYPES[dtype]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", SPECS)
def test_kernel_equals_reference(op: str, dtype: str) -> None:
    check_equals_reference(REFERENCES[op], KERNELS[op], examples_of(op, dtype), dtype)


@pytest.mark.parametrize("op", SPECS)
def test_row_does_not_depend_on_its_neighbours(op: str) -> None:
    examples = examples_of(op, "bfloat16")[2:4]  # the interpreter is slow
    check_first_row_stands_alone(REFERENCES[op], KERNELS[op], examples)


@pytest.mark.parametrize("op", ROW_OPS)
def test_kernel_leaves_its_inputs_alone(op: str) -> None:
    examples = examples_of(op, "float32")
    check_leaves_its_inputs_alone(REFERENCES[op], KERNELS[op], examples)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("op", ROW_OPS)
def test_neighbours_that_are_not_finite_do_not_leak(op: str, value: float) -> None:
    kernel = KERNELS[op]
    for example in examples_of(op, "float32"):
        before = call(REFERENCES[op], kernel, example)
        after = call(REFERENCES[op], kernel, with_other_neighbours(example, value))
        for x, y in zip(before, after, strict=True):
            assert torch.equal(x[:1], y[:1])


@pytest.mark.parametrize("op", SPECS)
def test_kernel_refuses_what_it_does_not_run_on(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    supports = SPECS[op].supports
    assert "not on cpu" in str(supports("cpu", "float32"))
    assert "not in float64" in str(supports("cuda:0", "float64"))
    assert supports("cuda", "bfloat16") is None
    assert supports("cuda:1", "float16") is None
    monkeypatch.setattr("llmplug_triton.find_spec", lambda name: None)
    assert "not installed" in str(supports("cuda", "bfloat16"))


def test_norm_reads_heads_within_a_joined_projection() -> None:
    joined = torch.randn(5, 7, 64, device=DEVICE)
    weight = torch.randn(64, device=DEVICE)
    got = KERNELS["rms_norm"](joined[:, 2:5], weight, eps=1e-6)
    expected = REFERENCES["rms_norm"].reference(joined[:, 2:5], weight, eps=1e-6)
    torch.testing.assert_close(got, expected)


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.zeros(shape, device=DEVICE, dtype=dtype)


BAD_INPUTS = {
    "a weight of another width": ("rms_norm", (zeros(2, 8), zeros(7)), {"eps": 1e-5}),
    "an empty row": ("rms_norm", (zeros(2, 0), zeros(0)), {"eps": 1e-5}),
    "another dtype": (
        "add_rms_norm",
        (zeros(2, 8), zeros(2, 8, dtype=torch.float16), zeros(8)),
        {"eps": 1e-5},
    ),
    "an odd width": ("silu_mul", (zeros(2, 7),), {}),
    "rows of no two halves": ("gelu_mul", (zeros(2, 7),), {}),
    "an unknown approximation": ("gelu_mul", (zeros(2, 8),), {"approximate": "fast"}),
    "positions in int32": (
        "rope",
        (zeros(2, 1, 8), zeros(2, 1, 8), zeros(2, dtype=torch.int32), zeros(4, 8)),
        {},
    ),
    "a table wider than a head": (
        "rope",
        (zeros(2, 1, 8), zeros(2, 1, 8), zeros(2, dtype=torch.int64), zeros(4, 10)),
        {},
    ),
}


@pytest.mark.parametrize(("op", "args", "settings"), BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_input_that_does_not_fit_is_refused(op, args, settings) -> None:
    with pytest.raises(KernelInputError):
        KERNELS[op](*args, **settings)


# --- attention ----------------------------------------------------------------------------------
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
    check_equals_reference(op, KERNELS["attention"], [example], "float32")


def test_attention_joins_parts_in_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than 16 parts of a decode, on both sides of a round's end."""
    monkeypatch.setattr("llmplug_triton.attention._CHUNK_TOKENS", 16)
    example = describe([(1, n) for n in (256, 257)], (2, 1, 16))
    check_equals_reference(REFERENCES["attention"], KERNELS["attention"], [example], "float32")


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
    got = attend_two(KERNELS["attention"], cache_dtype)
    torch.testing.assert_close(got, attend_two(PagedAttention(), cache_dtype), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("factor", [float("inf"), float("nan")])
def test_attention_keeps_what_is_not_finite_to_its_sequence(factor: float) -> None:
    before, after = (attend_two(KERNELS["attention"], factor=x) for x in (1.0, factor))
    assert torch.equal(before[:1], after[:1])
    assert after[1:].isnan().all()


def test_attention_refuses_what_does_not_fit() -> None:
    kernel = KERNELS["attention"]
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


@pytest.mark.skipif(sys.platform != "linux", reason="Triton brings its compiler on Linux alone")
def test_kernels_compile_for_a_gpu(tmp_path: Path) -> None:
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, COMPILE], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert {line.split()[0] for line in done.stdout.splitlines()} == SPECS.keys()
