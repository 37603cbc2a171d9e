"""The cost model against made-up devices whose times are known."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmplug.engine.cost_model import MIN_CHUNKS, CostModel, Work

# Seconds of a step, a token, a token read, a pair: a small model on a few cores, and on a GPU.
CPU = (8e-3, 9e-4, 2e-7, 6e-8)
GPU = (5e-3, 2.5e-5, 1.6e-8, 1e-10)


def true_s(device: tuple[float, ...], work: Work) -> float:
    features = (work.num_steps, work.num_tokens, work.num_read, work.num_pairs)
    return sum(a * b for a, b in zip(device, features, strict=True))


def decode_work(lengths: list[int]) -> Work:
    work = Work()
    for length in lengths:
        work.add_decode(length)
    return work


def draw_work(source: random.Random) -> Work:
    """A step of a server: some decode, and every other one has a chunk too."""
    work = decode_work([source.randint(1, 3000) for _ in range(source.randint(1, 40))])
    if source.random() < 0.5:
        work.add_chunk(source.randrange(0, 4000, 16), source.choice([16, 48, 128, 256, 512]))
    return work


def test_work_counts_what_attention_does() -> None:
    work = Work()
    work.add_decode(9)
    work.add_chunk(100, 20)
    assert (work.num_steps, work.num_tokens, work.num_read) == (1, 21, 10 + 120)
    # The pairs, counted one by one, but for half a token each.
    assert work.num_pairs == sum(range(101, 121)) - 20 / 2
    other = Work()
    other.add_decode(1)
    work.add_all(other)
    assert (work.num_steps, work.num_tokens, work.num_read) == (2, 22, 132)


@pytest.mark.parametrize("device", [CPU, GPU])
def test_it_finds_what_a_device_without_noise_is_made_of(device) -> None:
    source, model = random.Random(1), CostModel()
    for _ in range(200):
        work = draw_work(source)
        model.observe(work, true_s(device, work))
    assert model.coefficients == pytest.approx(device, rel=0.05)


@pytest.mark.parametrize("device", [CPU, GPU])
def test_noise_and_outliers_leave_predictions_right(device) -> None:
    """A tenth of noise, and one step in fifty takes twenty times as long; the first one too."""
    source, model, errors = random.Random(2), CostModel(), []
    for number in range(400):
        work = draw_work(source)
        if number >= 50:
            errors.append(model.predict(work) / true_s(device, work) - 1)
        slowness = 20 if number % 50 == 0 else source.lognormvariate(0, 0.1)
        model.observe(work, true_s(device, work) * slowness)
    errors.sort(key=abs)
    assert abs(errors[len(errors) // 2]) < 0.1
    assert abs(errors[int(len(errors) * 0.95)]) < 0.3


def test_a_step_that_took_no_time_is_not_believed() -> None:
    source, model = random.Random(3), CostModel()
    for number in range(100):
        work = draw_work(source)
        model.observe(work, true_s(CPU, work) if number != 99 else 1e-9)
    assert model.predict(work) > true_s(CPU, work) / 2


def test_an_hour_of_decoding_does_not_forget_what_a_prompt_costs() -> None:
    source, model = random.Random(4), CostModel()
    for _ in range(100):
        work = draw_work(source)
        model.observe(work, true_s(CPU, work))
    for number in range(50_000):
        work = decode_work([100 + number % 900] * 8)
        model.observe(work, true_s(CPU, work) * source.lognormvariate(0, 0.1))
    work.add_chunk(512, 256)
    assert model.predict(work) == pytest.approx(true_s(CPU, work), rel=0.15)


@pytest.mark.parametrize("factor", [3.0, 1 / 3])
def test_it_follows_a_machine_that_changes(factor) -> None:
    source, model = random.Random(5), CostModel()
    for number in range(400):
        work = draw_work(source)
        model.observe(work, true_s(CPU, work) * (1.0 if number < 100 else factor))
    assert model.predict(work) == pytest.approx(true_s(CPU, work) * factor, rel=0.15)


def test_it_is_ready_after_some_chunks_and_not_after_any_number_of_decodes() -> None:
    model = CostModel()
    for _ in range(100):
        model.observe(decode_work([10]), 0.01)
    assert not model.is_ready
    for _ in range(MIN_CHUNKS):
        assert not model.is_ready
        work = Work()
        work.add_chunk(0, 64)
        model.observe(work, 0.07)
    assert model.is_ready


@given(
    steps=st.lists(
        st.tuples(
            st.integers(0, 64), st.integers(0, 10**5), st.integers(0, 4096), st.floats(1e-6, 1e3)
        ),
        min_size=1,
        max_size=60,
    )
)
@settings(deadline=None)
def test_whatever_steps_take_coefficients_are_finite_and_not_negative(steps) -> None:
    model = CostModel()
    for num_decodes, length, chunk, seconds in steps:
        work = decode_work([length] * num_decodes)
        if chunk:
            work.add_chunk(length, chunk)
        model.observe(work, seconds)
        assert all(0.0 <= c < 1e12 for c in model.coefficients)
        assert model.fit_chunk(length, 0.05) >= 0.0


@pytest.mark.parametrize("seed", range(8))
def test_it_recovers_from_times_that_make_no_sense(seed) -> None:
    source, model = random.Random(seed), CostModel()
    for _ in range(3000):
        model.observe(draw_work(source), 10 ** source.uniform(-6, 3))
    for _ in range(300):
        work = draw_work(source)
        model.observe(work, true_s(CPU, work))
    assert model.predict(work) == pytest.approx(true_s(CPU, work), rel=0.1)


@pytest.mark.parametrize("device", [CPU, GPU, (0.0, 0.0, 0.0, 1e-8), (1e-3, 1e-3, 0.0, 0.0)])
@pytest.mark.parametrize("num_cached", [0, 160, 5000])
@pytest.mark.parametrize("seconds", [1e-4, 0.02, 0.5])
def test_a_chunk_that_fits_takes_that_long(device, num_cached, seconds) -> None:
    model = CostModel()
    model._bounded = list(device)
    count = model.fit_chunk(num_cached, seconds)
    if count == 0.0:
        assert device[2] * num_cached >= seconds
        return
    work = Work(num_steps=0)
    work.add_chunk(num_cached, count)
    assert model.predict(work) == pytest.approx(seconds)
