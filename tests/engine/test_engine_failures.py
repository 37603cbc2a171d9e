"""What fails within a step ends the rows that it belongs to, and no others."""

from __future__ import annotations

import pytest
import torch
from engine.fake_model import (
    VOCAB_SIZE,
    FakeModel,
    assert_is_empty,
    drain,
    expected_output,
    finish_of,
    make_engine,
    make_request,
    output_of,
)
from pydantic import BaseModel

from llmplug import EngineError, SamplerSpec
from llmplug.types import FinishReason


def test_nan_ends_one_row_and_the_batch_goes_on() -> None:
    model = FakeModel()
    engine = make_engine(model)
    good, bad = [1, 2, 3], [4, 5, 6]
    model.nan_ids = {expected_output(bad, 2)[1]} - set(expected_output(good, 8))
    engine.add(make_request("good", good))
    engine.add(make_request("bad", bad))
    engine.add(make_request("drawn", bad, temperature=1.0, top_p=0.9, top_k=5, min_p=0.1))
    found = drain(engine)
    assert output_of(found["good", 0]) == expected_output(good, 8)
    assert finish_of(found["bad", 0]) is FinishReason.ERROR
    assert found["bad", 0][-1].error.kind == "EngineError"
    assert_is_empty(engine)


class _Params(BaseModel):
    explode: int = -1
    stray: int = 0


class _Exploding:
    def apply(self, logits_RV, rows) -> None:
        logits_RV.fill_(0.0)  # spoiled before it raises: the others must not see it
        if any(row.params.explode == len(row.output_ids) for row in rows):
            raise RuntimeError("a sampler bug")
        logits_RV[:, 42] = 1.0


class _Stray:
    def choose(self, logits_RV, rows) -> torch.Tensor:
        return torch.tensor([row.params.stray for row in rows])


SAMPLERS = [
    SamplerSpec(
        name="exploding",
        stage="filter",
        params=_Params,
        is_active=lambda params: params.explode >= 0,
        make=lambda vocab_size, device, ops: _Exploding(),
    ),
    SamplerSpec(
        name="stray",
        stage="choose",
        params=_Params,
        is_active=lambda params: params.stray != 0,
        make=lambda vocab_size, device, ops: _Stray(),
    ),
]


@pytest.mark.parametrize("num_good", [0, 4])
def test_a_raising_sampler_ends_its_own_row(num_good) -> None:
    engine = make_engine(samplers=SAMPLERS)
    engine.add(make_request("bad", [1, 2], extra={"explode": 2}))
    engine.add(make_request("fine", [1, 2], extra={"explode": 99}))
    for i in range(num_good):
        engine.add(make_request(str(i), [i, 7, 9]))
    found = drain(engine)
    assert output_of(found["bad", 0]) == [42, 42]
    assert found["bad", 0][-1].error.message == "a sampler bug"
    assert output_of(found["fine", 0]) == [42] * 8
    for i in range(num_good):
        assert output_of(found[str(i), 0]) == expected_output([i, 7, 9], 8)
    assert_is_empty(engine)


@pytest.mark.parametrize("stray", [-1, VOCAB_SIZE, 2**40])
def test_a_sampler_that_chooses_no_token_ends_its_row(stray) -> None:
    engine = make_engine(samplers=SAMPLERS)
    engine.add(make_request("stray", [1, 2], extra={"stray": stray}))
    engine.add(make_request("good", [1, 2]))
    found = drain(engine)
    assert finish_of(found["stray", 0]) is FinishReason.ERROR
    assert output_of(found["good", 0]) == expected_output([1, 2], 8)


def test_a_failed_forward_ends_its_rows_and_not_the_engine() -> None:
    model = FakeModel()
    engine = make_engine(model)
    engine.add(make_request("poor", [1, 2, 3], max_tokens=4))
    engine.step()
    model.failing_ids = {90}
    engine.add(make_request("poison", [90, 91]))
    found = drain(engine)
    assert finish_of(found["poor", 0]) is finish_of(found["poison", 0]) is FinishReason.ERROR
    assert "this step fails" in found["poison", 0][-1].error.message
    engine.add(make_request("after", [1, 2, 3]))
    assert output_of(drain(engine)["after", 0]) == expected_output([1, 2, 3], 8)
    assert_is_empty(engine)


def test_an_engine_that_only_fails_gives_up() -> None:
    model = FakeModel()
    engine = make_engine(model)
    model.failing_ids = {1}
    for i in range(2):
        engine.add(make_request(str(i), [1]))
        assert finish_of(drain(engine)[str(i), 0]) is FinishReason.ERROR
    engine.add(make_request("last", [1]))
    with pytest.raises(EngineError, match="3 steps in succession"):
        engine.step()
