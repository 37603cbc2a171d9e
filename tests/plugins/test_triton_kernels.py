"""The Triton kernels, in Triton's interpreter where there is no GPU, and compiled for one.

The interpreter runs each program in numpy: it shows wrong indices, masks and sums, and nothing of
speed, memory or what the GPU's own instructions round.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llmplug import KernelInputError
from llmplug.ops import REFERENCES, DecoderLayer, KernelTable
from llmplug.ops.attacker_rows import count_rows, with_attacker, without_last_row
from llmplug.ops.rope_store import apply_rope_store
from llmplug.testing.kernels import list_examples
from llmplug_triton import llmplug_kernels
from tests.ops.kernel_checks import (
    DTYPES,
    REFERENCE_TABLE,
    call,
    check_equals_reference,
    check_leaves_its_inputs_alone,
    check_rows_beside_an_attacker,
    poisoned_memory,  # noqa: F401 - a fixture
)
from tests.plugins.triton_interpreter import interpreter_that_rounds  # noqa: F401 - a fixture

SPECS = {spec.op: spec for spec in llmplug_kernels()}

pytest.importorskip("triton", reason="triton is not installed")
KERNELS = {op: spec.load() for op, spec in SPECS.items()}

# numpy, which stands in for the GPU, warns of the inf and NaN that some tests are about.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Of a fused op a table: the kernel, what it builds on, and references.
TABLE = {op: KERNELS.get(op, kernel) for op, kernel in REFERENCE_TABLE._kernels.items()}
KERNELS |= {op: KernelTable(TABLE) for op in SPECS if REFERENCES[op].compose is not None}
ROW_OPS = sorted(op for op in SPECS if REFERENCES[op].compare is None)
# Compiles what the launchers launch, for a GPU that is not there. Not run under the interpreter.
COMPILE = Path(__file__).parent / "compile_triton_kernels.py"


def examples_of(op: str, dtype: str):
    return list_examples(SPECS[op], DEVICE.type, dtype)


@pytest.mark.parametrize(
    ("op", "dtype"),
    # Logits are float32 whatever the dtype: once is enough.
    [(o, d) for o in SPECS for d in DTYPES if d == "float32" or not o.endswith("_tokens")],
)
def test_kernel_equals_reference(op: str, dtype: str) -> None:
    check_equals_reference(REFERENCES[op], KERNELS[op], examples_of(op, dtype), dtype)


@pytest.mark.parametrize("op", SPECS)
def test_rows_do_not_see_an_attacker_among_them(op: str) -> None:
    check_rows_beside_an_attacker(REFERENCES[op], KERNELS[op], examples_of(op, "float32"))


@pytest.mark.parametrize("op", sorted({*ROW_OPS} - {"expert_mlp"}))
def test_rows_do_not_see_that_an_attacker_is_there(op: str) -> None:
    """Bitwise the same without the last row: another grid, and another height of lists."""
    for example in examples_of(op, "float32")[1:3]:
        row = count_rows(example) - 1
        if row > 0:
            before = call(REFERENCES[op], KERNELS[op], without_last_row(example))
            after = call(REFERENCES[op], KERNELS[op], with_attacker(example, row))
            for x, y in zip(before, after, strict=True):
                assert torch.equal(x, y[: len(x)])


def test_no_row_sees_which_experts_an_attacker_chose() -> None:
    """He is the last of all who chose an expert: in the interpreter a row's place has a say."""
    for example in examples_of("expert_mlp", "float32"):
        if len(example["x_TD"]) < 2:
            continue
        changed = with_attacker(example, len(example["x_TD"]) - 1)
        wild = torch.tensor([2**62, -(2**63), -1, 0], device=DEVICE)
        changed["experts_TC"][-1] = wild[: changed["experts_TC"].shape[1]]
        before, after = (KERNELS["expert_mlp"](**each) for each in (example, changed))
        assert torch.equal(before[:-1], after[:-1])


@pytest.mark.parametrize("is_sigmoid", [False, True])
def test_a_router_without_a_number_chooses_experts_that_exist(is_sigmoid: bool) -> None:
    scores_TE = torch.full((2, 12), float("nan"), device=DEVICE)
    scores_TE[1, :8] = float("-inf")
    correction_E = torch.full((12,), float("-inf"), device=DEVICE)
    _, experts_TC = KERNELS["route_experts"](
        scores_TE, num_chosen=4, renormalises=True, is_sigmoid=is_sigmoid,
        correction_E=correction_E, num_groups=4, num_chosen_groups=2,
    )  # fmt: skip
    for chosen in experts_TC.tolist():
        assert len(set(chosen)) == 4
        assert all(0 <= expert < 12 for expert in chosen)


@pytest.mark.parametrize("op", ROW_OPS)
def test_kernel_leaves_its_inputs_alone(op: str) -> None:
    examples = examples_of(op, "float32")
    check_leaves_its_inputs_alone(REFERENCES[op], KERNELS[op], examples)


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
    "a bias of another width": ("layer_norm", (zeros(2, 8), zeros(8), zeros(7)), {"eps": 1e-5}),
    "a residual of another shape": (
        "layer_norm",
        (zeros(2, 8), zeros(8), None),
        {"eps": 1e-5, "residual_TD": zeros(3, 8)},
    ),
    "an empty text": (
        "pool_texts",
        (zeros(3, 8), [0, 1, 1, 3]),
        {"kind": "mean", "is_normalised": False},
    ),
    "a pooling without a name": (
        "pool_texts",
        (zeros(3, 8), [0, 3]),
        {"kind": "median", "is_normalised": False},
    ),
    "texts of other tokens": (
        "text_attention",
        (zeros(3, 1, 8), zeros(3, 1, 8), zeros(3, 1, 8), [0, 4]),
        {"scale": 1.0},
    ),
    "keys of other heads": (
        "text_attention",
        (zeros(3, 2, 8), zeros(3, 1, 8), zeros(3, 2, 8), [0, 3]),
        {"scale": 1.0},
    ),
    "an odd width": ("silu_mul", (zeros(2, 7),), {}),
    "rows of no two halves": ("gelu_mul", (zeros(2, 7),), {}),
    "an unknown approximation": ("gelu_mul", (zeros(2, 8),), {"approximate": "fast"}),
    "positions in int32": (
        "rope",
        (zeros(2, 1, 8), zeros(2, 1, 8), zeros(2, dtype=torch.int32), zeros(4, 8)),
        {},
    ),
    "more experts than there are": (
        "route_experts",
        (zeros(2, 4),),
        {"num_chosen": 5, "renormalises": True},
    ),
    "more experts than the chosen groups have": (
        "route_experts",
        (zeros(2, 8),),
        {"num_chosen": 3, "renormalises": True, "num_groups": 4, "num_chosen_groups": 1},
    ),
    "groups that do not divide the experts": (
        "route_experts",
        (zeros(2, 8),),
        {"num_chosen": 1, "renormalises": True, "num_groups": 3},
    ),
    "a correction of other experts": (
        "route_experts",
        (zeros(2, 8),),
        {"num_chosen": 1, "renormalises": True, "correction_E": zeros(7)},
    ),
    "experts of another width": (
        "expert_mlp",
        (zeros(2, 8), zeros(3, 4, 8), zeros(3, 8, 3), zeros(2, 1), zeros(2, 1, dtype=torch.int64)),
        {},
    ),
    "experts in int32": (
        "expert_mlp",
        (zeros(2, 8), zeros(3, 4, 8), zeros(3, 8, 2), zeros(2, 1), zeros(2, 1, dtype=torch.int32)),
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


def test_fused_store_rounds_as_single_kernels_do() -> None:
    """In a cache of 8-bit floats, whose neighbours are far apart: all but a few are the same."""
    example = {
        "num_tokens": 7, "heads": (4, 2, 64), "rotary": 32, "has_norms": (True, True),
        "cache_dtype": torch.float8_e4m3fn, "device": DEVICE, "dtype": torch.bfloat16,
        "factor": 300.0,
    }  # fmt: skip
    fused, single = (apply_rope_store(t, example) for t in (KERNELS["rope_store"], REFERENCE_TABLE))
    for got, expected in zip(fused, single, strict=True):
        assert got.abs().max() <= 448 or got is fused[0]
        assert (got != expected).float().mean() < 0.02
        torch.testing.assert_close(got, expected, rtol=0.13, atol=2e-2)


def test_choices_are_cut_into_tiles_of_one_expert() -> None:
    """Experts without a choice, with a full tile, and with one more; ids beyond them are left."""
    from llmplug_triton.expert_mlp import _cut_into_tiles

    counts = {-1: 3, 0: 17, 2: 16, 3: 1, 5: 4}  # of 5 experts
    experts = torch.tensor([e for e, count in counts.items() for _ in range(count)], device=DEVICE)
    order = torch.randperm(len(experts), generator=torch.Generator().manual_seed(0)).to(DEVICE)
    tiles = _cut_into_tiles(experts[order][:, None], 5)
    assert tiles.rows == 16
    found = []
    for tile, expert in enumerate(tiles.expert_of_tile.tolist()):
        if expert < 5:
            first = int(tiles.starts_E1[expert]) + (tile - int(tiles.tile_starts_E[expert])) * 16
            rows = tiles.order_R[first : min(first + 16, int(tiles.starts_E1[expert + 1]))]
            assert (experts[order][rows] == expert).all()
            found += rows.tolist()
    wanted = [r for r, e in enumerate(experts[order].tolist()) if 0 <= e < 5]
    assert sorted(found) == wanted


def test_fused_store_refuses_what_does_not_fit() -> None:
    table = KERNELS["rope_store"]
    cache = table.attention.allocate(2, 4, 1, 8, device=DEVICE, dtype=torch.float32)
    layer = DecoderLayer(
        attention_norm=zeros(8), qkv=None, o=None, mlp_norm=zeros(8), gate_up=None, down=None,
        rope_table_CR=zeros(9, 8), num_heads=2, num_kv_heads=1, head_width=8, scale=1.0, eps=1e-5,
    )  # fmt: skip
    ids = zeros(3, dtype=torch.int64)
    with pytest.raises(KernelInputError, match="for 2 queries and twice 1"):
        table.rope_store(zeros(3, 5, 8), layer, ids, cache, ids)
    with pytest.raises(KernelInputError, match="int64 slots"):
        table.rope_store(zeros(3, 4, 8), layer, ids, cache, ids[:2])
    with pytest.raises(KernelInputError, match="int64 positions"):
        table.rope_store(zeros(3, 4, 8), layer, ids.int(), cache, ids)
    with pytest.raises(KernelInputError, match="a norm of"):
        table.rope_store(zeros(3, 4, 8), replace(layer, k_norm=zeros(7)), ids, cache, ids)


@pytest.mark.skipif(sys.platform != "linux", reason="Triton brings its compiler on Linux alone")
@pytest.mark.parametrize(
    "ops",
    [["attention"], ["linear"], sorted({*SPECS} - {"attention", "linear"})],
    ids=["attention", "linear", "the others"],
)
def test_kernels_compile_for_a_gpu(ops: list[str], tmp_path: Path) -> None:
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, COMPILE, *ops],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert {line.split()[0] for line in done.stdout.splitlines()} == set(ops)
    compiled = [path.read_text() for path in tmp_path.rglob("_decode_kernel.ptx")]
    assert bool(compiled) == ("attention" in ops)
    for program in compiled:
        check_parts_are_stored_before_they_are_joined(program)


def check_parts_are_stored_before_they_are_joined(program: str) -> None:
    """All threads store; one counts, releasing what they stored; all wait for it, and load."""
    word = r"\b(?:st\.global|bar\.sync|ld\.global|cp\.async\.c[ag]|atom\.global\S+|red\.global)\b"
    words = re.findall(word, program)
    (count,) = [place for place, word in enumerate(words) if word.startswith(("atom", "red"))]
    assert words[count] == "atom.global.gpu.acq_rel.add.u32"
    before, after = words[:count], words[count + 1 :]
    assert before[-1] == after[0] == "bar.sync"
    assert [word for word in before if word != "bar.sync"][-1] == "st.global"
    assert {"ld.global", "cp.async.cg"} & set(after)
