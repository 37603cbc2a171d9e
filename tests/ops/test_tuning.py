"""Candidates are checked before they are timed; a table serves only what it was made for."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from llmplug.errors import ConfigError
from llmplug.ops import Op, Sizes, Tunable, TuningTable, Workload, bucket_rows
from llmplug.ops.autotune import Search, take_kernel
from llmplug.ops.model_sizes import USUAL_SIZES
from llmplug.ops.tuning_table import RowKey, TuningRow, read_table, write_table
from llmplug.specs import KernelSpec

CPU = torch.device("cpu")
F32 = torch.float32


def double(x_TD: torch.Tensor, tuning: Any = None) -> torch.Tensor:
    """Twin of x * 2; what BLOCK stands for depends on its value."""
    default = {"BLOCK": 1}
    sizes = default
    if tuning is not None:
        sizes = tuning.find_sizes("double", x_TD.dtype, (bucket_rows(len(x_TD)),), default)
    y_TD = torch.empty_like(x_TD)
    match sizes["BLOCK"]:
        case 3:
            y_TD[:-1] = x_TD[:-1] * 2  # the last row is not written
        case 4:
            raise RuntimeError("out of shared memory:\n  needs 300000")
        case 5:
            y_TD[:] = x_TD * 2 + 1
        case 6:
            y_TD[:] = x_TD * 2 * (1 + 1e-6)
        case _:
            y_TD[:] = x_TD * 2
    return y_TD


DOUBLE = Op(
    name="double",
    reference=lambda x_TD: x_TD * 2,
    tolerances={"float32": (1e-5, 1e-5)},
    example_inputs=lambda device, dtype: [{"x_TD": torch.ones(3, 2)}, {"x_TD": torch.zeros(0, 2)}],
)


def prepare(num_rows: int, kernel: Any) -> Callable[[], object]:
    return partial(kernel, torch.ones(num_rows, 2))


def make_tunable(*blocks: int, is_exact: bool = True, rows: tuple[int, ...] = (16,)) -> Tunable:
    return Tunable(
        name="double",
        compiler="none 1",
        source=lambda: "abc",
        shape_names=("rows",),
        candidates=tuple({"BLOCK": block} for block in blocks),
        is_exact=is_exact,
        workloads=lambda sizes, device, dtype: [
            Workload(prepare=partial(prepare, count), num_bytes=8.0 * count, num_flops=0.0)
            for count in rows
        ],
    )


SPEC = KernelSpec(
    op="double",
    name="mine",
    supports=lambda device, dtype: None,
    load=lambda tuning=None: partial(double, tuning=tuning),
)
KERNEL = take_kernel(SPEC, [SPEC], {"double": DOUBLE})


@dataclass
class Stopwatch:
    """Says how long each block takes, and runs the call."""

    seconds: dict[int, float]

    def measure_s(self, call: Any) -> float:
        call()
        trial = call.keywords["tuning"]
        return self.seconds[1 if trial.sizes is None else trial.sizes["BLOCK"]]


def search(seconds: dict[int, float], done: frozenset[RowKey] = frozenset()) -> Search:
    return Search(
        sizes=USUAL_SIZES["tiny"],
        device=CPU,
        device_name="cpu",
        dtype=F32,
        stopwatch=Stopwatch(seconds),
        done=done,
    )


# --- search -------------------------------------------------------------------------------------
def test_fastest_of_those_that_are_right_is_kept() -> None:
    seconds = {1: 3e-6, 2: 2e-6, 3: 1e-9, 4: 1e-9, 5: 1e-9, 6: 1e-9, 7: 2.5e-6}
    (row,) = search(seconds).find_rows(KERNEL, make_tunable(2, 3, 4, 5, 6, 7))
    assert (row.sizes, row.us, row.default_us) == ({"BLOCK": 2}, pytest.approx(2), pytest.approx(3))
    assert row.gbytes_s == pytest.approx(8 * 16 / 2e-6 / 1e9)
    reasons = {sizes["BLOCK"]: why for sizes, why in row.passed_over}
    assert reasons.keys() == {3, 4, 5, 6}
    assert "differs from the reference" in reasons[3]
    assert reasons[4] == "out of shared memory: needs 300000"
    assert "differs from the reference" in reasons[5]
    assert reasons[6] == "it differs in bits from the default sizes"


def test_other_bits_pass_where_sizes_do_not_depend_on_rows() -> None:
    (row,) = search({1: 3e-6, 6: 1e-6}).find_rows(KERNEL, make_tunable(6, is_exact=False))
    assert (row.sizes, row.passed_over) == ({"BLOCK": 6}, ())


def test_default_wins_a_draw() -> None:
    (row,) = search({1: 3e-6, 2: 3e-6}).find_rows(KERNEL, make_tunable(2))
    assert row.sizes == {"BLOCK": 1}


def test_each_shape_has_a_row_and_is_not_searched_twice() -> None:
    tunable = make_tunable(2, rows=(16, 10, 64))
    first = list(search({1: 1e-6, 2: 2e-6}).find_rows(KERNEL, tunable))
    assert [dict(row.key.shape) for row in first] == [{"rows": 16}, {"rows": 64}]
    done = frozenset({first[0].key})
    again = list(search({1: 1e-6, 2: 2e-6}, done).find_rows(KERNEL, tunable))
    assert [row.key for row in again] == [first[1].key]
    changed = replace(tunable, source=lambda: "changed")
    assert len(list(search({1: 1e-6, 2: 2e-6}, done).find_rows(KERNEL, changed))) == 2


def test_workload_that_the_default_cannot_run_is_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def double_few(x_TD: torch.Tensor, tuning: Any = None) -> torch.Tensor:
        if len(x_TD) > 16:
            raise torch.OutOfMemoryError("no memory is left")
        return double(x_TD, tuning)

    spec = replace(SPEC, load=lambda tuning=None: partial(double_few, tuning=tuning))
    kernel = take_kernel(spec, [spec], {"double": DOUBLE})
    (row,) = search({1: 2e-6, 2: 1e-6}).find_rows(kernel, make_tunable(2, rows=(16, 64)))
    assert dict(row.key.shape) == {"rows": 16}
    assert caplog.messages == ["double/mine: a workload is left out: no memory is left"]


def test_rows_are_rounded_up_to_a_bucket() -> None:
    counts = [1, 16, 17, 2048, 100_000]
    assert [bucket_rows(count) for count in counts] == [16, 16, 64, 2048, 2048]


# --- table --------------------------------------------------------------------------------------
def make_row(sizes: Sizes | None = None, **fields: Any) -> TuningRow:
    key = {
        "kernel": "double/mine/double", "source": "abc", "device": "cpu", "compiler": "none 1",
        "dtype": "float32", "shape": (("rows", 16),), **fields,
    }  # fmt: skip
    return TuningRow(
        key=RowKey(**key),
        sizes=sizes or {"BLOCK": 2},
        us=1.5,
        default_us=2.0,
        gbytes_s=3.0,
        tflops=0.0,
        passed_over=(({"BLOCK": 4}, "why"),),
    )


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    rows = [make_row(), make_row(device="NVIDIA H100", dtype="bfloat16", shape=(("layout", "a"),))]
    path = tmp_path / "new" / "tuning.json"
    write_table(path, rows)
    assert read_table(path) == rows
    assert [file.name for file in path.parent.iterdir()] == ["tuning.json"]


def test_only_rows_for_the_kernel_as_it_is_are_taken() -> None:
    rows = (
        make_row(),
        make_row({"BLOCK": 7}, dtype="bfloat16"),
        make_row(shape=(("rows", 64),), source="older"),
        make_row(shape=(("rows", 64),), compiler="none 0"),
        make_row({"WIDTH": 2}, shape=(("rows", 64),)),
        make_row(shape=(("rows", 64),), device="NVIDIA H100"),
        make_row(shape=(("rows", 64),), kernel="other/mine/double"),
    )
    sizes = TuningTable("cpu", rows).choose_rows("double/mine", [make_tunable(2)])
    assert sizes.rows == {
        ("double", F32, (16,)): {"BLOCK": 2},
        ("double", torch.bfloat16, (16,)): {"BLOCK": 7},
    }
    assert sizes.num_outdated == 3
    assert sizes.find_sizes("double", F32, (16,), {"BLOCK": 1}) == {"BLOCK": 2}
    assert sizes.find_sizes("double", F32, (64,), {"BLOCK": 1}) == {"BLOCK": 1}


def break_row(**fields: Any) -> str:
    row = {**RIGHT, **fields}
    return json.dumps({"format": 1, "rows": [row]})


RIGHT: dict[str, Any] = {
    "kernel": "a/b/c", "source": "s", "device": "cpu", "compiler": "c", "dtype": "float32",
    "shape": {"rows": 1}, "sizes": {"BLOCK": 1}, "us": 1, "default_us": 1, "gbytes_s": 1,
    "tflops": 1, "passed_over": [],
}  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"rows": []}',
        '{"format": 2, "rows": []}',
        '{"format": 1, "rows": 3}',
        '{"format": 1, "rows": [3]}',
        break_row(sizes={}),
        break_row(sizes={"BLOCK": -1}),
        break_row(sizes={"BLOCK": True}),
        break_row(sizes={"BLOCK": "1"}),
        break_row(sizes=[1]),
        break_row(shape={"rows": 1.5}),
        break_row(shape=[["rows", 1]]),
        break_row(dtype="float8"),
        break_row(kernel=None),
        break_row(us="fast"),
        break_row(passed_over=[{"sizes": {"BLOCK": 1}}]),
    ],
)
def test_file_that_is_no_table_is_an_error_that_names_it(tmp_path: Path, text: str) -> None:
    assert len(read_table_of(tmp_path, break_row(sizes={"SPLITS": 0}))) == 1
    with pytest.raises(ConfigError, match=r"tuning\.json is no tuning table"):
        read_table_of(tmp_path, text)


def read_table_of(folder: Path, text: str) -> list[TuningRow]:
    path = folder / "tuning.json"
    path.write_text(text)
    return read_table(path)
