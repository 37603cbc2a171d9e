"""The benchmarks' numbers: hand-made timings with known answers."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.client import Job, Timing, split_job
from benchmarks.cost import ModelCost, find_limit
from benchmarks.probe import Probe
from benchmarks.report import (
    ImpossibleNumberError,
    percentile,
    summarise_row,
    summarise_run,
)
from benchmarks.workload import FIRST_ID, LAST_ID, WORKLOADS, Workload, make_prompts

# Two requests of 5 tokens: one text a token, and one with two tokens in each of two texts.
EVEN = Timing(started=10.0, content_times=[10.5, 10.6, 10.7, 10.8, 10.9], ended=10.9)
PAIRS = Timing(started=10.0, content_times=[11.0, 11.4], ended=12.0)
EVEN.output_tokens = PAIRS.output_tokens = 5
LOST = Timing(started=10.0, ended=10.1, failure="HTTP 500")


def test_run_follows_the_definitions() -> None:
    run = summarise_run([EVEN, PAIRS, LOST])
    assert run.ttft == pytest.approx([0.5, 1.0])
    assert run.tpot == pytest.approx([0.4 / 4, 1.0 / 4])
    assert run.itl == pytest.approx([0.1] * 4 + [0.4 / 2.5])
    assert run.e2e == pytest.approx([0.9, 2.0])
    assert run.output_tok_s == pytest.approx(10 / 2.0)
    assert run.tokens_per_chunk == pytest.approx(10 / 7)
    assert run.failures == {"HTTP 500": 1}


def test_row_of_failures_has_no_latencies() -> None:
    row = summarise_row([summarise_run([LOST])], limit=None)
    assert row["ttft_ms"] == {}
    assert row["output_tok_s"]["median"] == 0
    assert row["failures"] == {"HTTP 500": 1}


@given(st.lists(st.floats(-1e6, 1e6), min_size=2))
def test_percentiles_agree_with_the_standard_library(values: list[float]) -> None:
    expected = statistics.quantiles(values, n=100, method="inclusive")
    for percent in (1, 50, 90, 99):
        assert percentile(values, percent) == pytest.approx(expected[percent - 1], abs=1e-6)


def test_limit_is_the_slower_of_reading_and_computing() -> None:
    cost = ModelCost(weight_bytes=10**9, body_params=10**9, head_params=0)
    workload = Workload("w", prompt_tokens=100, output_tokens=100)
    fast_reader = Probe(bandwidth_gb_s=1000.0, gemm_gflop_s=100.0)
    fast_computer = Probe(bandwidth_gb_s=10.0, gemm_gflop_s=1e9)
    computing = find_limit(cost, fast_reader, workload, concurrency=1)
    reading = find_limit(cost, fast_computer, workload, concurrency=1)
    assert (computing.bound, reading.bound) == ("compute", "memory")
    assert computing.output_tok_s == pytest.approx(100 / (2e9 * 200 / 100e9))
    assert reading.output_tok_s == pytest.approx(10.0)  # 1 GB a token at 10 GB/s
    assert reading.tpot_s == pytest.approx(0.1)
    shared = find_limit(cost, fast_computer, workload, concurrency=8)
    assert shared.output_tok_s == pytest.approx(80.0)
    assert shared.tpot_s == pytest.approx(0.1)


def test_integer_products_raise_the_limit_and_keys_lower_it() -> None:
    workload = Workload("w", prompt_tokens=100, output_tokens=100)
    probe = Probe(bandwidth_gb_s=10.0, gemm_gflop_s=100.0)
    plain = ModelCost(weight_bytes=0, body_params=10**9, head_params=0)
    integer = ModelCost(weight_bytes=0, body_params=10**9, head_params=0, is_integer=True)
    cached = ModelCost(10**9, 0, 0, kv_bytes_per_token=10**7)
    assert find_limit(integer, probe, workload, 1).output_tok_s == pytest.approx(
        4 * find_limit(plain, probe, workload, 1).output_tok_s
    )
    # 1 GB of weights and 150 tokens x 10 MB of keys at 10 GB/s
    assert find_limit(cached, probe, workload, 1).tpot_s == pytest.approx(0.25)


def test_number_above_the_limit_is_refused() -> None:
    cost = ModelCost(weight_bytes=10**9, body_params=1, head_params=1)
    workload = Workload("w", prompt_tokens=2, output_tokens=5)
    run = summarise_run([EVEN])  # 0.1 s a token
    slow = find_limit(cost, Probe(bandwidth_gb_s=100.0, gemm_gflop_s=1e6), workload, 1)
    row = summarise_row([run], slow)
    assert row["limit"]["tpot_ratio"] == pytest.approx(0.1)
    assert row["limit"]["throughput_ratio"] == pytest.approx(5 / 0.9 / 100, abs=1e-3)
    impossible = find_limit(cost, Probe(bandwidth_gb_s=5.0, gemm_gflop_s=1e6), workload, 1)
    with pytest.raises(ImpossibleNumberError, match="speed per token"):
        summarise_row([run], impossible)


@pytest.mark.parametrize("workload", WORKLOADS.values(), ids=list(WORKLOADS))
def test_prompts_are_the_same_for_a_seed_and_share_only_what_they_should(
    workload: Workload,
) -> None:
    prompts = make_prompts(workload, 6, seed=1)
    assert prompts == make_prompts(workload, 6, seed=1)
    others = prompts + make_prompts(workload, 6, seed=2)
    assert {len(prompt) for prompt in prompts} == {workload.prompt_tokens}
    assert all(FIRST_ID <= token <= LAST_ID for prompt in prompts for token in prompt)
    assert len({tuple(prompt) for prompt in others}) == 12
    shared = {tuple(prompt[: workload.shared_prefix]) for prompt in prompts}
    assert len(shared) == 1
    if workload.shared_prefix:
        assert others[0][: workload.shared_prefix] != others[-1][: workload.shared_prefix]
    assert len({tuple(prompt[: workload.shared_prefix + 16]) for prompt in prompts}) == 6


@given(num_prompts=st.integers(1, 40), concurrency=st.integers(1, 40), processes=st.integers(1, 9))
def test_splitting_loses_and_idles_nothing(
    num_prompts: int, concurrency: int, processes: int
) -> None:
    prompts = [[number] for number in range(num_prompts)]
    parts = split_job(Job("http://h:1", "m", prompts, 2, concurrency), processes)
    assert sorted(prompt for part in parts for prompt in part.prompts) == prompts
    assert sum(part.concurrency for part in parts) == concurrency
    assert all(part.prompts and part.concurrency for part in parts)
