"""`tune` searches what the table lacks, `check` says what of it holds, and an engine uses it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import make_checkpoint

from llmplug.cli import INTERRUPTED, main
from tests.fake_plugins import Site

Capture = pytest.CaptureFixture[str]
CPU = ["--device", "cpu"]
TINY = ["--model-shape", "tiny", *CPU]
SETTINGS = "device: cpu\n  dtype: float32\n  cache: {memory: 32MiB}\n"

# A gate on CPUs that says which block it was asked for; one of 3 is wrong, one of 9 stops.
GATE = """
from functools import partial

ASKED = []

def gate(x_T2F, *, tuning=None):
    import torch
    from llmplug.ops import bucket_rows, silu_mul
    sizes = {"BLOCK": 1}
    if tuning is not None:
        shape = (x_T2F.shape[1], bucket_rows(len(x_T2F)))
        sizes = tuning.find_sizes("gate", x_T2F.dtype, shape, sizes)
    ASKED.append(sizes["BLOCK"])
    if sizes["BLOCK"] == 9 and len(x_T2F) > 16:
        raise KeyboardInterrupt
    return silu_mul(x_T2F) + (sizes["BLOCK"] == 3)

def prepare(rows, dtype, kernel):
    import torch
    return partial(kernel, torch.ones(rows, 8, dtype=dtype))

def list_tunables(device):
    from llmplug.ops import Tunable, Workload
    return [Tunable(
        name="gate", compiler="none 1", source=lambda: "SOURCE", shape_names=("width", "rows"),
        candidates=({"BLOCK": 2}, {"BLOCK": 3}, *MORE), is_exact=True,
        workloads=lambda sizes, device, dtype: [
            Workload(prepare=partial(prepare, rows, dtype), num_bytes=1.0, num_flops=0.0)
            for rows in (16, 64)
        ],
    )]

@hookimpl
def llmplug_kernels():
    return [KernelSpec(op="silu_mul", name="mine", supports=lambda device, dtype: None,
                       load=lambda tuning=None: partial(gate, tuning=tuning), priority=99,
                       tunables=list_tunables)]
"""
ONLY = ["--kernels", "silu_mul"]


def install(site: Site, source: str = "abc", more: str = "()") -> None:
    site.install("mine", GATE.replace("SOURCE", source).replace("MORE", more))


@pytest.fixture(autouse=True)
def _no_other_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter of the Triton kernels is slow: their tests are below."""
    monkeypatch.setattr("llmplug_triton._TUNABLE", {})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("llama", tmp_path_factory.mktemp("made") / "tiny-one")


def read_rows(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text())["rows"]


def test_each_shape_is_searched_once(site: Site, tmp_path: Path, capsys: Capture) -> None:
    install(site)
    path = tmp_path / "t.json"
    assert main(["tune", *TINY, *ONLY, "--out", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "on a CPU kernels are only tried: the times say nothing about a GPU"
    assert lines[1].startswith("silu_mul/mine/gate float32 width=8 rows=16: BLOCK=")
    assert lines[2].startswith("  passed over BLOCK=3: it differs from the reference: ")
    assert lines[-1] == f"{path}: 2 rows found, 0 were there"
    rows = read_rows(path)
    assert [row["shape"] for row in rows] == [{"width": 8, "rows": 16}, {"width": 8, "rows": 64}]
    assert {row["sizes"]["BLOCK"] for row in rows} <= {1, 2}
    assert main(["tune", *TINY, "--out", str(path)]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [f"{path}: 0 rows found, 2 were there"]
    assert read_rows(path) == rows
    assert main(["tune", *TINY, "--out", str(path), "--dtype", "bfloat16"]) == 0
    assert f"{path}: 2 rows found, 2 were there" in capsys.readouterr().out


def test_interrupt_keeps_what_was_found(site: Site, tmp_path: Path, capsys: Capture) -> None:
    install(site, more='({"BLOCK": 9},)')
    path = tmp_path / "t.json"
    assert main(["tune", *TINY, "--out", str(path)]) == INTERRUPTED
    assert capsys.readouterr().out.splitlines()[-1] == f"{path}: 1 rows found, 0 were there"
    assert [row["shape"]["rows"] for row in read_rows(path)] == [16]


def write_config(path: Path, folder: Path, table: object) -> str:
    path.write_text(
        f"log: {{level: error}}\nmodels:\n- source: {folder}\n  {SETTINGS}  kernels: "
        f"{{tuning: {table}, block: [avx2]}}\n"
    )
    return str(path)


def read_choice(config: str, capsys: Capture) -> tuple[str, str]:
    capsys.readouterr()
    assert main(["check", "--config", config, "--json"]) == 0
    (plan,) = json.loads(capsys.readouterr().out)
    (line,) = [line for line in plan["choices"] if line["topic"] == "kernel tuning"]
    return line["chosen"], line["why"]


def test_check_says_how_much_of_the_table_holds(
    site: Site, folder: Path, tmp_path: Path, capsys: Capture, caplog: pytest.LogCaptureFixture
) -> None:
    install(site)
    path = tmp_path / "t.json"
    config = write_config(tmp_path / "x.yaml", folder, path)
    assert main(["check", "--config", config]) == 2
    assert f"no such file: {path}; llmplug tune writes one" in capsys.readouterr().err
    assert main(["tune", *CPU, "--config", config]) == 0
    whole = (str(path), "2 rows for 1 of 1 kernels that can be tuned")
    assert read_choice(config, capsys) == whole
    rows = read_rows(path)
    rows[1]["source"] = "older"
    path.write_text(json.dumps({"format": 1, "rows": rows}))
    outdated = "1 rows are of another source or compiler, and not used"
    assert caplog.records == []
    assert read_choice(config, capsys) == (
        str(path),
        f"1 rows for 1 of 1 kernels that can be tuned; {outdated}",
    )
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: {outdated}: llmplug tune finds new ones"
    ]
    path.write_text("{}")
    assert main(["check", "--config", config]) == 2
    assert f"{path} is no tuning table" in capsys.readouterr().err


def test_default_place_is_the_cache(
    site: Site, folder: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(site)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "cache" / "llmplug" / "tuning.json"
    config = write_config(tmp_path / "x.yaml", folder, "auto")
    why = f"1 kernels could be tuned: llmplug tune writes {path}"
    assert read_choice(config, capsys) == ("none", why)
    assert main(["tune", *CPU, "--config", config]) == 0
    assert read_choice(config, capsys)[0] == str(path)
    never = write_config(tmp_path / "y.yaml", folder, "none")
    assert read_choice(never, capsys) == ("none", "the config says so")


def test_engine_launches_with_the_sizes_of_the_table(
    site: Site, folder: Path, tmp_path: Path
) -> None:
    install(site)
    path = tmp_path / "t.json"
    config = write_config(tmp_path / "x.yaml", folder, path)
    assert main(["tune", *CPU, "--config", config]) == 0
    width = 2 * json.loads((folder / "config.json").read_text())["intermediate_size"]
    row = read_rows(path)[0]
    rows = [
        {**row, "shape": {"width": width, "rows": count}, "sizes": {"BLOCK": block}}
        for count, block in ((16, 2), (64, 7))
    ]
    path.write_text(json.dumps({"format": 1, "rows": rows}))
    asked = sys.modules["fake_dist_mine_mine"].ASKED
    asked.clear()
    assert main(["generate", "--config", config, "--prompt", "a", "--max-tokens", "2"]) == 0
    assert set(asked) == {2, 7}  # of the answer's tokens, of the prompt


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of what overflows on purpose
def test_triton_kernels_are_tuned_in_the_interpreter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU, and no interpreter")
    monkeypatch.setattr("llmplug_triton._TUNABLE", {"silu_mul"})
    path = tmp_path / "t.json"
    assert main(["tune", *TINY, "--out", str(path)]) == 0
    (row,) = read_rows(path)
    assert (row["kernel"], row["passed_over"]) == ("silu_mul/triton/silu_mul", [])
    assert row["sizes"].keys() == {"BLOCK_F", "num_warps"}


MISTAKES = {
    "neither": ([], "give either --config FILE or --model-shape NAME"),
    "both": (["--config", "x", "--model-shape", "8b"], "give either --config FILE"),
    "set": (["--model-shape", "8b", "--set", "a=1"], "--set needs --config FILE"),
    "kernel": ([*TINY, "--kernels", "silu_mull"], "did you mean 'silu_mul'?"),
    "shape": ([*CPU, "--model-shape", "9b"], "no usual model '9b': tiny, 135m, "),
    "device": (["--model-shape", "8b"], "torch finds no GPU to tune for"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_one_line_and_exit_2(
    name: str, site: Site, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(site)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    arguments, message = MISTAKES[name]
    out = ["--out", str(tmp_path / "t.json")]
    assert main(["tune", *arguments, *out]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_nothing_to_tune_is_told(capsys: Capture) -> None:
    assert main(["tune", *TINY]) == 2
    assert "no installed kernel has anything to tune on cpu" in capsys.readouterr().err
