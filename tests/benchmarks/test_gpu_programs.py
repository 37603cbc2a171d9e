"""The programs for a GPU, on a CPU: everything but the device."""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import bench, check, greedy, peer, races
from benchmarks.gpu.device import Bench, Ceilings, HostClock
from benchmarks.gpu.fresh import shifted_seeds
from benchmarks.gpu.models import TINY, build_model
from benchmarks.gpu.rows import Row, run_rows
from llmplug.ops import REFERENCES

# Settings of samplers that an example sets one by one, the angles of positions, a list of rows.
FIXED = {"top_k_S", "top_p_S", "min_p_S", "table_CR", "rows_R", "correction_E"}
pytest.importorskip("triton", reason="triton is not installed")
BENCH = Bench(torch.device("cpu"), torch.float32, is_tiny=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("program", [bench, check])
def test_without_a_gpu_there_is_one_line_and_status_2(
    program: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        program.main([])
    assert caught.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_rows_of_a_model_are_measured_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--device", "cpu", "--tiny", "--models", "smollm2-135m", "--only", "decode",
                 "--results", str(tmp_path)]  # fmt: skip
    assert bench.main(arguments) == 0
    (file,) = tmp_path.iterdir()
    lines = [json.loads(text) for text in file.read_text().splitlines()]
    assert [line["row"] for line in lines] == [
        "attention decode B=2 context=33",
        "attention decode B=3 context=33 longest=600",
        "smollm2-135m decode B=1 context=20",
        "smollm2-135m decode B=3 context=20",
    ]
    for line in lines:
        assert line["device"] == "cpu"
        assert line["copy_gbytes_s"] > 0
        assert line["of_limit"] > 0
    assert bench.main(arguments) == 0
    assert len(file.read_text().splitlines()) == len(lines)


def test_transformers_answers_the_same_prompts_beside_it(tmp_path: Path) -> None:
    arguments = ["--device", "cpu", "--tiny", "--models", "qwen3-0.6b", "--only", "shared",
                 "--results", str(tmp_path)]  # fmt: skip
    assert bench.main(arguments) == 0
    (file,) = tmp_path.iterdir()
    ours, theirs = (json.loads(text) for text in file.read_text().splitlines())
    assert theirs["row"] == f"{ours['row']} transformers"
    assert ours["output_tokens"] == theirs["output_tokens"] == 3 * 6
    assert ours["cached_tokens"] > 0


def test_rows_that_fail_or_take_too_long_are_told_and_tried_again(tmp_path: Path) -> None:
    path, tries = tmp_path / "rows.jsonl", []

    def fail_once() -> dict[str, Any]:
        tries.append("fail")
        if len(tries) == 1:
            raise ValueError("out of luck")
        return {"us": 1.0}

    def hang() -> dict[str, Any]:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            pass
        return {}

    rows = [Row("a", fail_once), Row("b", hang), Row("c", lambda: {"us": 2.0})]
    assert run_rows(path, rows, {"device": "x"}, limit_s=1) == 2
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    assert [line.get("error") for line in lines] == [
        "ValueError: out of luck", "TimeoutError: it took more than 1 s", None
    ]  # fmt: skip
    assert run_rows(path, rows[:1], {"device": "x"}) == 0
    assert json.loads(path.read_text().splitlines()[-1])["us"] == 1.0


def test_what_is_faster_than_the_device_is_an_error(tmp_path: Path) -> None:
    rows = [Row("a", lambda: {"of_limit": 0.98}), Row("b", lambda: {"of_limit": 1.2})]
    assert run_rows(tmp_path / "rows.jsonl", rows, {"device": "x"}) == 1


def test_the_clock_counts_the_call() -> None:
    def spin() -> None:
        end = time.perf_counter() + 0.02
        while time.perf_counter() < end:
            pass

    assert 0.02 <= HostClock().measure_s(spin) < 1


def test_the_limit_is_the_slower_of_memory_and_arithmetic() -> None:
    ceilings = Ceilings(copy_bytes_s=100.0, product_flops=1000.0)
    assert ceilings.least_s(200, 500) == 2.0
    assert ceilings.least_s(10, 5000) == 5.0


def test_what_a_step_reads_is_counted_from_the_shapes() -> None:
    built = build_model(BENCH, "llama-3.1-8b")
    width, forward, vocab = 64, 128, 263
    assert built.num_params == 2 * (2 * width**2 + 2 * width * 32 + 3 * width * forward) + (
        vocab * width
    )
    assert built.weight_bytes == 4 * built.num_params
    assert built.kv_bytes(4) == 2 * 2 * 2 * 16 * 4
    assert built.config == TINY


def test_greedy_answers_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(greedy.find_other_tokens(BENCH)) == []
    build_peer = peer.build_peer

    def spoil(*args: Any) -> Any:
        model = build_peer(*args)
        with torch.no_grad():
            model.lm_head.weight.copy_(model.lm_head.weight.flip(0).clone())
        return model

    monkeypatch.setattr(greedy, "build_peer", spoil)
    assert list(greedy.find_other_tokens(BENCH)) != []


# numpy, which stands in for the GPU, warns of exponentials that become infinite.
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_kernels_that_differ_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from llmplug.ops import silu_mul
    from llmplug_triton import llmplug_kernels

    (spec,) = [spec for spec in llmplug_kernels() if spec.op == "silu_mul"]
    assert list(check.find_unlike(spec, BENCH.device, "float32", 77)) == []
    for factor in (1.01, float("nan")):

        def spoil(factor: float = factor, **inputs: Any) -> torch.Tensor:
            return silu_mul(**inputs) * factor

        wrong = replace(spec, load=partial(partial, spoil))
        lines = list(check.find_unlike(wrong, BENCH.device, "float32", 77))
        assert {"seed 0" in line for line in lines} == {True, False}


def test_every_argument_is_drawn_anew() -> None:
    """But for what an example fixes on purpose, such as a value that means something."""
    for op in REFERENCES.values():
        drawn = []
        for shift in (0, 5):
            with shifted_seeds(shift):
                drawn.append(op.example_inputs(BENCH.device, torch.float32))
        changed, fixed = set(), set()
        for before, after in zip(*drawn, strict=True):
            for name, value in before.items():
                if isinstance(value, torch.Tensor) and value.numel() > 1:
                    (fixed if torch.equal(value, after[name]) else changed).add(name)
        assert not fixed - changed - FIXED, op.name


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_rows_that_notice_an_attacker_are_found() -> None:
    from llmplug.ops import silu_mul
    from llmplug_triton import llmplug_kernels

    (spec,) = [spec for spec in llmplug_kernels() if spec.op == "silu_mul"]
    assert list(check.find_leaks(spec, BENCH.device, "float32", 3)) == []

    def leak(x_T2F: torch.Tensor) -> torch.Tensor:
        return silu_mul(x_T2F) * (1 + x_T2F[-1:].isnan().sum())

    assert list(check.find_leaks(replace(spec, load=lambda: leak), BENCH.device, "float32", 3))


def test_attention_that_gives_other_bits_at_times_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from llmplug_triton import llmplug_kernels

    monkeypatch.setattr(races, "PROGRAMS", (3, 1))
    (spec,) = [spec for spec in llmplug_kernels() if spec.op == "attention"]
    assert list(races.find_races(spec, BENCH, 1)) == []

    class TooEarly(type(spec.load())):
        def attend(self, *tensors: Any, **settings: Any) -> torch.Tensor:
            parts = super().attend(*tensors, **settings)
            return parts * 2 if next(calls) == 1 else parts

    calls = itertools.count()
    (line,) = races.find_races(replace(spec, load=TooEarly), BENCH, 1)
    assert line.startswith("attention with 1 programs: 1 of 1")


def test_memory_that_is_not_filled_is_told() -> None:
    assert len(list(check.find_unpoisoned(BENCH.device))) == 3
    torch.use_deterministic_algorithms(True)
    try:
        assert list(check.find_unpoisoned(BENCH.device)) == []
    finally:
        torch.use_deterministic_algorithms(False)
