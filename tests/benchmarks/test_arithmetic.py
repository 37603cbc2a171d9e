"""The benchmarks' numbers: hand-made timings with known answers."""

from __future__ import annotations

import statistics
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.client import Job, Timing, split_job
from benchmarks.compare import compare_runs, divide_spreads
from benchmarks.cost import Limit, ModelCost, find_limit
from benchmarks.probe import Probe
from benchmarks.report import (
    ImpossibleNumberError,
    Run,
    check_hits,
    percentile,
    summarise_row,
    summarise_run,
)
from benchmarks.workload import FIRST_ID, LAST_ID, WORKLOADS, Workload, make_prompts, spell

# Two requests of 5 tokens: one text a token, and one with two tokens in each of two texts.
EVEN = Timing(started=10.0, content_times=[10.5, 10.6, 10.7, 10.8, 10.9], ended=10.9)
PAIRS = Timing(started=10.0, content_times=[11.0, 11.4], ended=12.0)
EVEN.output_tokens = PAIRS.output_tokens = 5
EVEN.prompt_tokens = PAIRS.prompt_tokens = 100
PAIRS.cached_tokens = 60
LOST = Timing(started=10.0, ended=10.1, failure="HTTP 500")
SHORT = Workload("short", prompt_tokens=100, output_tokens=5)
PREFILL = Workload("prefill", prompt_tokens=100, output_tokens=2, is_prefill=True)


def test_run_follows_the_definitions() -> None:
    run = summarise_run([EVEN, PAIRS, LOST])
    assert run.ttft == pytest.approx([0.5, 1.0])
    assert run.tpot == pytest.approx([0.4 / 4, 1.0 / 4])
    assert run.itl == pytest.approx([0.1] * 4 + [0.4 / 2.5])
    assert run.e2e == pytest.approx([0.9, 2.0])
    assert run.output_tok_s == pytest.approx(10 / 2.0)
    assert run.tokens_per_chunk == pytest.approx(10 / 7)
    assert run.prefill_tok_s == pytest.approx([100 / 0.5, 40 / 1.0])
    assert (run.prompt_tokens, run.cached_tokens) == (200, 60)
    assert run.elapsed_s == pytest.approx(2.0)
    assert run.failures == {"HTTP 500": 1}


def test_row_of_failures_has_no_latencies() -> None:
    row = summarise_row([summarise_run([LOST])], SHORT)
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


def test_first_token_waits_for_its_own_uncached_prompt() -> None:
    probe = Probe(bandwidth_gb_s=10.0, gemm_gflop_s=100.0)
    cost = ModelCost(weight_bytes=10**9, body_params=10**9, head_params=0)
    whole = Workload("w", prompt_tokens=100, output_tokens=100)
    shared = Workload("w", prompt_tokens=100, output_tokens=100, shared_prefix=99)
    assert find_limit(cost, probe, whole, 8).ttft_s == pytest.approx(2e9 * 100 / 100e9)
    assert find_limit(cost, probe, shared, 8).ttft_s == pytest.approx(0.1)  # the weights' bytes


def limited(limit: Limit) -> Run:
    return replace(summarise_run([EVEN]), limit=limit)  # 0.5 s, then 0.1 s a token


def test_row_says_what_part_of_the_limit_it_reaches() -> None:
    half = Limit(output_tok_s=2 * 5 / 0.9, ttft_s=0.25, tpot_s=0.05, bound="memory")
    row = summarise_row([limited(half)], SHORT)
    ratios = [row["limit"][f"{name}_ratio"] for name in ("throughput", "ttft", "tpot")]
    assert ratios == pytest.approx([0.5, 0.5, 0.5])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output_tok_s": 5.0}, "1.11 of the machine's throughput"),
        ({"ttft_s": 0.6}, "1.20 of its speed to the first token"),
        ({"tpot_s": 0.11}, "1.10 of its speed per token"),
    ],
)
def test_number_above_the_limit_is_refused(change: dict[str, float], message: str) -> None:
    fine = Limit(output_tok_s=100.0, ttft_s=0.1, tpot_s=0.01, bound="memory")
    broken = limited(replace(fine, **change))
    with pytest.raises(ImpossibleNumberError, match=message):
        summarise_row([broken], SHORT)
    with pytest.raises(ImpossibleNumberError, match=message):  # among good ones too
        summarise_row([limited(fine), broken, limited(fine)], SHORT)


def test_prefill_row_says_how_fast_prompts_are_read_and_no_more() -> None:
    limit = Limit(output_tok_s=100.0, ttft_s=0.25, tpot_s=99.0, bound="compute")
    row = summarise_row([limited(limit), summarise_run([EVEN, EVEN, PAIRS])], PREFILL)
    assert row["prefill_tok_s"] == {"median": 200.0, "min": 200.0, "max": 200.0}
    assert row["limit"]["ttft_ratio"] == pytest.approx(0.5)
    assert not {"tpot_ms", "itl_ms"} & row.keys()
    assert "prefill_tok_s" not in summarise_row([summarise_run([EVEN])], SHORT)


def test_hits_are_measured_and_those_that_should_not_be_refused() -> None:
    silent, hitting = summarise_run([EVEN]), summarise_run([PAIRS])
    row = summarise_row([hitting, hitting], SHORT)
    assert (row["hit_rate"], row["cached_tokens"], row["prompt_tokens"]) == (0.6, 120, 100.0)
    assert summarise_row([silent], SHORT)["hit_rate"] is None
    shared = Workload("shared", prompt_tokens=100, output_tokens=5, shared_prefix=60)
    check_hits(silent, SHORT)
    check_hits(hitting, shared)
    check_hits(replace(hitting, cached_tokens=1), SHORT)  # a start-of-text token
    with pytest.raises(ImpossibleNumberError, match="60% of the prompts were cached"):
        check_hits(hitting, SHORT)


def test_shares_are_of_all_cores_and_of_wall_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2, 3})
    run = replace(
        summarise_run([PAIRS]),  # 2 s
        cpu_s={"server": 0.2, "engine": 4.0},
        engine_s={"schedule": 0.1, "run": 1.5, "sample": 0.2, "record": 0.06},
        peak_rss_bytes=3 << 20,
    )
    row = summarise_row([run, replace(run, cpu_s={"server": 0.4, "engine": 3.4})], SHORT)
    assert row["wall_s"] == pytest.approx(4.0)
    assert row["cpu_s"] == pytest.approx({"server": 0.6, "engine": 7.4})
    assert row["cpu_share"] == pytest.approx(8.0 / (4 * 4.0))
    assert row["http_share"] == pytest.approx({"median": 0.0375, "min": 0.025, "max": 0.05})
    assert row["engine_share"]["run"] == pytest.approx(0.75)
    assert row["engine_share"]["host"] == pytest.approx(0.08)
    assert row["peak_rss_mib"] == 3
    peer = summarise_row([replace(run, cpu_s={"server": 4.0}, engine_s={})], SHORT)
    assert "http_share" not in peer  # what part of it is HTTP nobody can tell
    assert "engine_share" not in peer


def test_ratio_is_of_medians_and_its_spread_the_widest() -> None:
    ratio = divide_spreads([30.0, 10.0, 20.0], [5.0, 4.0, 8.0])
    assert ratio == {"median": 4.0, "min": 1.25, "max": 7.5}
    assert divide_spreads([], [1.0]) == divide_spreads([1.0], []) == {}
    ours, theirs = summarise_run([EVEN]), summarise_run([PAIRS, LOST])
    ratios = compare_runs([ours, ours], [theirs], SHORT)
    assert ratios["ttft"]["median"] == pytest.approx(0.5 / 1.0)
    assert ratios["tpot"]["median"] == pytest.approx(0.1 / 0.25)
    assert ratios["output_tok_s"]["median"] == pytest.approx((5 / 0.9) / (5 / 2.0), abs=1e-3)
    assert (ratios["failures"], ratios["peer_failures"]) == (0, 1)
    assert compare_runs([ours], [theirs], PREFILL)["prefill_tok_s"]["median"] == 5.0
    assert compare_runs([ours], [summarise_run([LOST])], SHORT)["output_tok_s"] == {}


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
    assert workload.shared_prefix % 16 == 0  # whole pages, so that all of it can be cached


def test_workloads_are_as_long_as_their_names_say() -> None:
    for name, workload in WORKLOADS.items():
        kind, *numbers = name.split("-")
        if kind == "random":
            assert [workload.prompt_tokens, workload.output_tokens] == [int(n) for n in numbers]
        elif kind == "shared":
            assert workload.shared == pytest.approx(int(numbers[0]) / 100, abs=0.005)
            assert (workload.prompt_tokens, workload.output_tokens) == (1024, 128)


def test_words_share_what_the_ids_share() -> None:
    first, second = make_prompts(WORKLOADS["shared-50"], 2, seed=1)
    words = [spell(prompt).split() for prompt in (first, second)]
    assert [len(each) for each in words] == [1024, 1024]
    assert words[0][:512] == words[1][:512]
    assert words[0][512:528] != words[1][512:528]


@given(num_prompts=st.integers(1, 40), concurrency=st.integers(1, 40), processes=st.integers(1, 9))
def test_splitting_loses_and_idles_nothing(
    num_prompts: int, concurrency: int, processes: int
) -> None:
    prompts = [[number] for number in range(num_prompts)]
    parts = split_job(Job("http://h:1", "m", prompts, 2, concurrency), processes)
    assert sorted(prompt for part in parts for prompt in part.prompts) == prompts
    assert sum(part.concurrency for part in parts) == concurrency
    assert all(part.prompts and part.concurrency for part in parts)
