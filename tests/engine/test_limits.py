"""Requests at and beyond every bound."""

from __future__ import annotations

import dataclasses
import math

import msgspec
import pytest
from engine.fake_model import make_request, make_settings
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from llmplug import (
    ConfigError,
    ContextLengthExceeded,
    InvalidRequest,
    SamplerSpec,
    SamplingParams,
    UnsupportedParameter,
)
from llmplug.engine.limits import normalise
from llmplug_standard import llmplug_samplers

SETTINGS = make_settings(context_length=100, num_pages=64)
LIMITS = SETTINGS.limits
STANDARD = tuple(llmplug_samplers())
NOT_FINITE = [math.nan, math.inf, -math.inf, 10**400, True, "1", [1.0], {}]
NOT_WHOLE = [True, 1.5, "1", math.nan, [1]]


def with_fields(**changes):
    """A request whose fields are not checked by anybody else."""
    outer = {
        name: changes.pop(name)
        for name in ("num_sequences", "priority", "cache_salt", "request_id", "prompt_ids")
        if name in changes
    }
    request = make_request("a", [1, 2, 3], max_tokens=5)
    sampling = msgspec.structs.replace(request.sampling, **changes)
    return msgspec.structs.replace(request, sampling=sampling, **outer)


def refused_param(**changes) -> str | None:
    with pytest.raises(InvalidRequest) as caught:
        normalise(with_fields(**changes), LIMITS)
    return caught.value.param


FLOATS = [
    "temperature",
    "top_p",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
]


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("value", NOT_FINITE, ids=repr)
def test_floats_must_be_finite_numbers(name, value) -> None:
    assert refused_param(**{name: value}) == name


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("temperature", [0, 0.0, 1e-300, 2.0, 100], [-0.1, -1e-300, 100.1, 1e308]),
        ("top_p", [1e-9, 1, 0.5], [0, 0.0, -0.5, 1.0001]),
        ("min_p", [0, 1, 0.5], [-0.5, 1.0001]),
        ("presence_penalty", [-2, 2, 0.0], [-2.1, 2.1]),
        ("frequency_penalty", [-2, 2, 0.0], [-2.1, 2.1]),
        ("repetition_penalty", [0.1, 1, 100], [0, -1, 101]),
        ("top_k", [-1, 0, 1, 10**6], [-2, 2**31, 2**63, *NOT_WHOLE]),
        ("seed", [0, -(2**63), 2**63 - 1, None], [2**63, -(2**63) - 1, *NOT_WHOLE]),
        ("max_tokens", [1, 97, 2**63, 10**30], [0, -1, *NOT_WHOLE]),
        ("min_tokens", [0, 5], [-1, 6, 2**63, *NOT_WHOLE]),
        ("logprobs", [0, 20, None], [-1, 21, 10**9, 2**63, *NOT_WHOLE]),
        ("prompt_logprobs", [0, 20, None], [-1, 21, *NOT_WHOLE]),
        ("stop", [(), ("a",) * 64, ("x" * 1024,)], [("",), ("a",) * 65, ("x" * 1025,), "a", (1,)]),
        ("stop_token_ids", [(), (0, 96)], [(-1,), (97,), (2**63,), (True,), (1.0,), 5]),
        ("logit_bias", [{}, {96: -100, 0: 100.0}], [{97: 1}, {-1: 1}, {"1": 1}, {1: 101}, [1]]),
        ("ignore_eos", [True, False], [1, None, "yes"]),
        ("extra", [{}], [None, {str(i): 0 for i in range(65)}]),
    ],
)
def test_bounds_of_sampling(name, good, bad) -> None:
    for value in good:
        normalise(with_fields(**{name: value}), LIMITS)
    for value in bad:
        assert refused_param(**{name: value}) == name


@pytest.mark.parametrize("value", NOT_FINITE, ids=repr)
def test_biases_must_be_finite(value) -> None:
    assert refused_param(logit_bias={3: value}) == "logit_bias"


@pytest.mark.parametrize(
    ("name", "param", "good", "bad"),
    [
        ("num_sequences", "n", [1, 128], [0, -1, 129, 10**9, 2**63, *NOT_WHOLE]),
        ("priority", "priority", [-(2**31), 2**31 - 1], [2**31, True, 0.5]),
        ("cache_salt", "cache_salt", ["", "x" * 256], ["x" * 257, None, b"x"]),
        ("request_id", "request_id", ["x"], ["", "x" * 257, None]),
        ("prompt_ids", "prompt", [[0], [96]], [[], None, [97], [-1], [2**63], [True], ["a"]]),
    ],
)
def test_bounds_of_requests(name, param, good, bad) -> None:
    for value in good:
        normalise(with_fields(**{name: value}), LIMITS)
    for value in bad:
        assert refused_param(**{name: value}) == param


def test_the_prompt_must_leave_room_for_a_token() -> None:
    fits = normalise(with_fields(prompt_ids=[1] * 99), LIMITS)
    assert fits.sampling.max_tokens == 1
    for count, shown in ((100, "100"), (101, "101"), (10**6, "more than 200")):
        with pytest.raises(ContextLengthExceeded) as caught:
            normalise(with_fields(prompt_ids=[1] * count), LIMITS)
        assert caught.value.code == "context_length_exceeded"
        assert f"the prompt alone has {shown};" in caught.value.message


def test_a_small_cache_bounds_a_sequence_too() -> None:
    limits = make_settings(context_length=1000, num_pages=5, page_size=4).limits
    assert normalise(with_fields(max_tokens=None), limits).sampling.max_tokens == 17
    with pytest.raises(ContextLengthExceeded, match="holds 20 tokens"):
        normalise(with_fields(prompt_ids=[1] * 20), limits)


def test_what_is_not_said_comes_from_the_model_then_is_neutral() -> None:
    limits = make_settings(sampling_defaults={"temperature": 0.6, "top_k": 20}).limits
    request = make_request("a", [1], temperature=None, max_tokens=None)
    filled = normalise(request, limits).sampling
    assert (filled.temperature, filled.top_k, filled.top_p) == (0.6, 20, 1.0)
    assert (filled.repetition_penalty, filled.min_p, filled.seed) == (1.0, 0.0, None)
    assert filled.max_tokens == 255
    said = normalise(make_request("a", [1], temperature=1, top_k=0), limits).sampling
    assert (said.temperature, said.top_k) == (1.0, 0)


def test_a_tiny_temperature_is_greedy() -> None:
    assert normalise(with_fields(temperature=1e-9), LIMITS).sampling.temperature == 0


class _OwnParams(BaseModel):
    sharpness: int = 0


OWN = SamplerSpec(
    name="own", stage="filter", params=_OwnParams, is_active=lambda params: True, make=print
)


def test_extra_parameters_belong_to_a_sampler() -> None:
    limits = dataclasses.replace(LIMITS, samplers=(*STANDARD, OWN))
    assert normalise(with_fields(extra={"sharpness": 3}), limits).sampling.extra == {"sharpness": 3}
    with pytest.raises(UnsupportedParameter) as unknown:
        normalise(with_fields(extra={"sharpnes": 3}), limits)
    assert unknown.value.param == "sharpnes"
    with pytest.raises(InvalidRequest) as wrong:
        normalise(with_fields(extra={"sharpness": "very"}), limits)
    assert wrong.value.param == "sharpness"
    with pytest.raises(UnsupportedParameter):  # no way around the checks of known fields
        normalise(with_fields(extra={"temperature": math.nan}), limits)


def test_a_known_field_that_no_sampler_serves_is_refused() -> None:
    limits = dataclasses.replace(LIMITS, samplers=(OWN,))
    normalise(with_fields(temperature=1.0), limits)
    with pytest.raises(UnsupportedParameter) as caught:
        normalise(with_fields(temperature=1.0, top_k=5), limits)
    assert caught.value.param == "top_k"


@settings(max_examples=200, deadline=None)
@given(
    temperature=st.none() | st.floats(0, 2),
    top_p=st.none() | st.floats(0.01, 1),
    top_k=st.none() | st.integers(-1, 200),
    max_tokens=st.none() | st.integers(1, 10**20),
    min_tokens=st.integers(0, 1),
    seed=st.none() | st.integers(-(2**63), 2**63 - 1),
    stop=st.lists(st.text(min_size=1, max_size=5), max_size=4).map(tuple),
    prompt_ids=st.lists(st.integers(0, 96), min_size=1, max_size=99),
)
def test_normalising_twice_changes_nothing_and_it_travels(prompt_ids, **sampling) -> None:
    request = msgspec.structs.replace(
        with_fields(prompt_ids=prompt_ids), sampling=SamplingParams(**sampling)
    )
    once = normalise(request, LIMITS)
    assert normalise(once, LIMITS) == once
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(once), type=type(once)) == once
    assert len(prompt_ids) + once.sampling.max_tokens <= LIMITS.max_tokens


@pytest.mark.parametrize("name", ["num_pages", "page_size", "prefill_chunk", "context_length"])
def test_sizes_of_an_engine_are_positive(name) -> None:
    with pytest.raises(ConfigError, match=name):
        make_settings(**{name: 0})


def test_a_step_must_hold_every_running_sequence() -> None:
    with pytest.raises(ConfigError, match="max_batch_tokens"):
        make_settings(max_batch_tokens=8, max_sequences=9)
