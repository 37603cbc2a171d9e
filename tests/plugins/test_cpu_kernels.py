"""The AVX2 kernels: exact integers, blocks as stored, and no neighbour in any result.

tests/ops compares every kernel with its reference; here is what only these kernels promise.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from llmplug import KernelInputError, PluginError
from llmplug.ops import REFERENCES, LoadedTensor, choose_kernels
from llmplug_cpu import build, llmplug_kernels
from tests.plugins.block_tensors import BLOCKS, BlockTensor, make_blocks, make_source

REASON = build.find_reason_against()
needs_avx2 = pytest.mark.skipif(REASON is not None, reason=str(REASON))
CPU = torch.device("cpu")
DENSE = ("float32", "bfloat16", "int8")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def linear():
    from llmplug_cpu.linear import PanelLinear

    return PanelLinear()


def pack(linear, weight_OI: torch.Tensor, name: str, bias_O: torch.Tensor | None = None):
    kept, _, activations = name.partition(" ")
    wanted = "w4a8" if activations else "int4" if kept in BLOCKS else kept
    sources = [make_source(weight_OI, kept)]
    return linear.pack(sources, bias_O, device=CPU, dtype=torch.float32, format=wanted)


# --- whether it runs here -----------------------------------------------------------------------
def test_a_gpu_and_16_bits_are_refused_with_a_reason():
    for spec in llmplug_kernels():
        assert "not on cuda" in (spec.supports("cuda", "float32") or "")
        assert "not in bfloat16" in (spec.supports("cpu", "bfloat16") or "")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("_find_compiler", lambda: None, "no C++ compiler"),
        ("_read_cpu_flags", lambda: frozenset({"fma", "f16c"}), "the cpu has no avx2"),
    ],
)
def test_the_reference_serves_where_these_cannot_run(monkeypatch, name, value, expected):
    monkeypatch.setattr(build, name, value)
    build.find_reason_against.cache_clear()
    try:
        specs = [(spec, "cpu") for spec in llmplug_kernels()]
        choices = choose_kernels(REFERENCES, specs, "cpu", "float32")
    finally:
        build.find_reason_against.cache_clear()
    assert {choice.kernel for choice in choices} == {"reference", "composed"}
    if REASON is None:
        refused = {reason for choice in choices for _, reason in choice.refused}
        assert all(expected in reason for reason in refused)


@needs_avx2
def test_a_library_is_built_once_for_each_version_of_its_sources(monkeypatch, tmp_path):
    sources = tmp_path / "csrc"
    sources.mkdir()
    (sources / "one.cpp").write_text('extern "C" int one() { return 1; }')
    monkeypatch.setattr(build, "SOURCES", sources)
    first = build.find_or_build(tmp_path / "cache")
    made = first.stat().st_mtime_ns
    assert build.find_or_build(tmp_path / "cache") == first
    assert first.stat().st_mtime_ns == made
    (sources / "one.cpp").write_text('extern "C" int one() { return 2; }')
    assert build.find_or_build(tmp_path / "cache") != first
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} == {".so"}


@needs_avx2
def test_a_failing_compiler_is_quoted_and_leaves_nothing(monkeypatch, tmp_path):
    sources = tmp_path / "csrc"
    sources.mkdir()
    (sources / "broken.cpp").write_text("int broken( {")
    monkeypatch.setattr(build, "SOURCES", sources)
    with pytest.raises(PluginError, match=r"broken\.cpp"):
        build.find_or_build(tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


# --- linear: numbers ----------------------------------------------------------------------------
@needs_avx2
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (7, 3), (16, 32), (33, 577), (40, 1536)])
def test_int8_is_exact_integer_arithmetic(linear, outputs, inputs):
    weight_OI, x_TI = random(outputs, inputs, seed=1), random(9, inputs, seed=2) * 3
    y_TO = linear(x_TI, pack(linear, weight_OI, "int8"))

    most_O = weight_OI.abs().amax(1)
    w_OI = (weight_OI * (torch.tensor(127.0) / most_O)[:, None]).round()
    limit = min(32767, (2**31 - 1) // (127 * (inputs + inputs % 2)))
    most_T = x_TI.abs().amax(1)
    a_TI = (x_TI * (torch.tensor(float(limit)) / most_T)[:, None]).round()
    sums_TO = (a_TI.long() @ w_OI.long().T).float()
    scales_TO = (most_T / limit)[:, None] * (most_O / 127)[None]
    assert torch.equal(y_TO, sums_TO * scales_TO)
    assert int((a_TI.long() @ w_OI.long().T).abs().max()) < 2**31


@needs_avx2
@pytest.mark.parametrize("inputs", [32, 576, 1536, 8960, 30016])
@pytest.mark.parametrize("name", ["int8", *BLOCKS])
def test_nothing_saturates_at_the_extremes(linear, name, inputs):
    signs_I = torch.where(torch.arange(inputs) % 3 == 0, -1.0, 1.0)
    weight_OI = torch.stack([torch.ones(inputs), -torch.ones(inputs), signs_I])
    source = make_source(weight_OI, name)
    x_TI = torch.stack([torch.ones(inputs), -torch.ones(inputs), signs_I]) * 5
    wanted = "int4" if name in BLOCKS else name
    packed = linear.pack([source], None, device=CPU, dtype=torch.float32, format=wanted)
    exact_TO = x_TI.double() @ source.load().double().T
    torch.testing.assert_close(linear(x_TI, packed).double(), exact_TO, rtol=1e-3, atol=1e-2)


@needs_avx2
@pytest.mark.parametrize("high", [0x00, 0xFF, 0xF0, 0x0F])
def test_every_nibble_may_be_at_its_end(linear, high):
    """A row of equal numbers has exact activations, so the result is exact to float32."""
    blocks = np.full((8, 3 * 20), high, np.uint8)
    blocks.reshape(8, 3, 20)[:, :, :4] = np.array([0.5, -1.0], np.float16).view(np.uint8)
    source = BlockTensor((8, 96), "Q4_1", blocks)
    packed = linear.pack([source], None, device=CPU, dtype=torch.float32)
    x_TI = torch.tensor([[127.0], [-127.0]]).repeat(1, 96)
    exact_TO = x_TI.double() @ source.load().double().T
    torch.testing.assert_close(linear(x_TI, packed).double(), exact_TO, rtol=1e-6, atol=1e-6)


@needs_avx2
@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 32), (13, 64), (40, 576)])
def test_blocks_are_used_as_they_are_stored(linear, name, outputs, inputs):
    """The only error is that of the activations: half a step of each, times its weight."""
    source = make_blocks(random(outputs, inputs, seed=3), name)
    x_TI = random(11, inputs, seed=4)
    packed = linear.pack([source], None, device=CPU, dtype=torch.float32, format="int4")
    weight_OI = source.load().double()
    exact_TO = x_TI.double() @ weight_OI.T
    steps_T1 = x_TI.abs().amax(1, keepdim=True).double() / 32767
    bound_TO = steps_T1 / 2 * weight_OI.abs().sum(1)
    error_TO = (linear(x_TI, packed).double() - exact_TO).abs()
    assert torch.all(error_TO <= bound_TO * 1.001 + 1e-5)
    assert packed.format == name
    assert packed.num_bytes >= source.num_bytes


@needs_avx2
@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_dense_weights_meet_float64(linear, name):
    weight_OI, bias_O, x_TI = random(37, 130, seed=5), random(37, seed=6), random(13, 130, seed=7)
    weight_OI = weight_OI.to(getattr(torch, name)).float()
    y_TO = linear(x_TI, pack(linear, weight_OI, name, bias_O))
    exact_TO = x_TI.double() @ weight_OI.double().T + bias_O
    torch.testing.assert_close(y_TO.double(), exact_TO, rtol=1e-5, atol=1e-4)


# --- linear: neighbours, shapes, refusals -------------------------------------------------------
@needs_avx2
@pytest.mark.parametrize("name", ["Q4_0", "Q4_1"])
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 32), (13, 64), (40, 576), (33, 1536)])
def test_w4a8_is_exact_integer_arithmetic_on_rounded_activations(linear, name, outputs, inputs):
    weight_OI, x_TI = random(outputs, inputs), random(13, inputs, seed=1) * 3
    x_TI[2, :32] = 0  # a block without a scale
    x_TI[3, 5] = 1000.0  # an outlier spoils its own block alone
    packed = pack(linear, weight_OI, f"{name} a8")
    x_TBI = x_TI.view(13, -1, 32)
    scale_TB1 = x_TBI.abs().amax(-1, keepdim=True) / 127
    rounded_TI = ((x_TBI / scale_TB1).round() * scale_TB1).nan_to_num(0.0).view(13, -1)
    stored = make_blocks(weight_OI, name).load()
    expected = rounded_TI.double() @ stored.double().T
    assert packed.format == f"{name} a8"
    torch.testing.assert_close(linear(x_TI, packed).double(), expected, rtol=1e-4, atol=1e-3)
    # And it is no exact product of the activations: they were rounded.
    assert not torch.allclose(linear(x_TI, packed).double(), x_TI.double() @ stored.double().T,
                              rtol=1e-4, atol=1e-3)  # fmt: skip


@needs_avx2
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_w4a8_sums_do_not_overflow(linear, sign):
    """All weights and all activations at their ends: the sums of a block fill 16 bits."""
    blocks = make_blocks(random(16, 64), "Q4_1")
    blocks.blocks[:, 4:20] = 0xFF
    blocks.blocks[:, 24:] = 0xFF
    packed = linear.pack([blocks], None, device=CPU, dtype=torch.float32, format="w4a8")
    x_TI = torch.full((7, 64), sign * 5)
    expected = x_TI.double() @ blocks.load().double().T
    torch.testing.assert_close(linear(x_TI, packed).double(), expected, rtol=1e-5, atol=1e-4)


@needs_avx2
def test_w4a8_keeps_what_has_8_bits(linear):
    packed = pack(linear, random(8, 64), "Q8_0 a8")
    assert packed.format == "Q8_0"


@needs_avx2
@pytest.mark.parametrize("name", [*DENSE, *BLOCKS, "Q4_0 a8", "Q4_1 a8"])
def test_a_token_is_the_same_in_any_batch(linear, name):
    packed = pack(linear, random(43, 96, seed=8), name, random(43, seed=9))
    x_TI = random(70, 96, seed=10) * torch.logspace(-3, 3, 70)[:, None]
    alone_TO = torch.cat([linear(x_TI[t : t + 1], packed) for t in range(70)])
    for num_tokens in range(1, 71):
        assert torch.equal(linear(x_TI[:num_tokens], packed), alone_TO[:num_tokens])
    poisoned_TI = x_TI.clone()
    poisoned_TI[1::2] = torch.tensor([float("nan"), float("inf")]).repeat(48)
    y_TO = linear(poisoned_TI, packed)
    assert torch.equal(y_TO[::2], alone_TO[::2])
    assert y_TO[1::2].isnan().all()


@needs_avx2
@pytest.mark.parametrize("name", [*DENSE, *BLOCKS, "Q4_1 a8"])
def test_more_tokens_than_one_block(linear, name):
    packed = pack(linear, random(24, 64, seed=11), name)
    x_TI = random(300, 64, seed=12)
    assert torch.equal(linear(x_TI, packed)[250:], linear(x_TI[250:], packed))


@needs_avx2
def test_an_empty_batch_gives_an_empty_result(linear):
    y_TO = linear(torch.empty(0, 64), pack(linear, random(24, 64), "Q4_1"))
    assert y_TO.shape == (0, 24)


@needs_avx2
def test_zeros_stay_zeros(linear):
    for name in (*DENSE, *BLOCKS):
        packed = pack(linear, random(24, 64), name)
        assert torch.equal(linear(torch.zeros(3, 64), packed), torch.zeros(3, 24))


@needs_avx2
def test_rows_of_a_wider_tensor_are_read_in_place(linear):
    packed = pack(linear, random(24, 64), "Q4_1")
    wide_TI = random(5, 200, seed=13)
    assert torch.equal(linear(wide_TI[:, 3:67], packed), linear(wide_TI[:, 3:67].clone(), packed))


@needs_avx2
def test_joined_sources_may_differ_in_format(linear):
    weights = [random(rows, 64, seed=rows) for rows in (24, 9, 17, 5)]
    names = ["Q4_1", "Q4_1", "Q8_0", "float32"]
    sources = [make_source(w, name) for w, name in zip(weights, names, strict=True)]
    bias_O, x_TI = random(55, seed=14), random(6, 64, seed=15)
    packed = linear.pack(sources, bias_O, device=CPU, dtype=torch.float32)
    parts = [
        linear(x_TI, linear.pack([source], bias, device=CPU, dtype=torch.float32))
        for source, bias in zip(sources, bias_O.split([24, 9, 17, 5]), strict=True)
    ]
    assert torch.equal(linear(x_TI, packed), torch.cat(parts, 1))
    assert packed.format == "Q4_1+Q8_0+float32"


@needs_avx2
def test_auto_keeps_what_the_file_has_and_says_why(linear):
    from llmplug_cpu.linear import choose_format

    chosen = {
        name: choose_format(LoadedNothing(name), "auto")[0]
        for name in (*BLOCKS, "F32", "BF16", "F16", "Q6_K")
    }
    assert chosen == {
        **{name: name for name in BLOCKS},
        "F32": "float32",
        "BF16": "bfloat16",
        "F16": "float32",
        "Q6_K": "int8",
    }
    assert "Q6_K" in choose_format(LoadedNothing("Q6_K"), "auto")[1]


@dataclass(frozen=True)
class LoadedNothing:
    format: str
    shape: tuple[int, int] = (8, 64)


@needs_avx2
@pytest.mark.parametrize(
    ("shapes", "wanted", "expected"),
    [
        ([(8, 64)], "int4", "F32"),
        ([(8, 64)], "fp8", "unknown format"),
        ([(8, 64), (8, 32)], "auto", "cannot join"),
        ([], "auto", "cannot join"),
    ],
)
def test_what_cannot_be_packed_is_refused(linear, shapes, wanted, expected):
    sources = [LoadedTensor(torch.ones(shape)) for shape in shapes]
    with pytest.raises(KernelInputError, match=expected):
        linear.pack(sources, None, device=CPU, dtype=torch.float32, format=wanted)


@needs_avx2
@pytest.mark.parametrize(
    "x_TI", [torch.ones(2, 32), torch.ones(2, 64).double(), torch.ones(64)], ids=str
)
def test_inputs_that_do_not_fit_are_refused(linear, x_TI):
    with pytest.raises(KernelInputError):
        linear(x_TI, pack(linear, random(24, 64), "int8"))


# --- threads ------------------------------------------------------------------------------------
@needs_avx2
def test_callers_in_two_threads_do_not_mix(linear):
    packed = pack(linear, random(600, 96, seed=16), "Q4_1")
    inputs = [random(40, 96, seed=seed) for seed in range(8)]
    expected = [linear(x_TI, packed) for x_TI in inputs]

    def repeat(index: int) -> bool:
        return all(torch.equal(linear(inputs[index], packed), expected[index]) for _ in range(50))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(repeat, range(8)))


FORKED = """
import os, torch
from llmplug.ops import LoadedTensor
from llmplug_cpu.linear import PanelLinear
linear = PanelLinear()
weight, x = torch.eye(512), torch.randn(64, 512)
packed = linear.pack([LoadedTensor(weight)], None, device=x.device, dtype=x.dtype)
assert torch.equal(linear(x, packed), x)
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(linear(x, packed), x) else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@needs_avx2
def test_a_forked_process_starts_threads_of_its_own():
    command = [sys.executable, "-W", "ignore", "-c", FORKED]
    subprocess.run(command, check=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "2"})
