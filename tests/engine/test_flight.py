"""Tokens that the host learns one step late: what ends, fails or is taken away meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
from engine.fake_model import (
    FakeModel,
    drain,
    expected_output,
    finish_of,
    make_engine,
    make_request,
    output_of,
)
from pydantic import BaseModel

from llmplug import SamplerSpec
from llmplug.engine.graphs import EagerGraphs
from llmplug.types import BeamParams, FinishReason


def test_the_host_learns_tokens_one_step_late_and_drops_the_one_too_many() -> None:
    prompt = [5, 6, 7]
    full = expected_output(prompt, 12)
    stop = full[4]
    engine = make_engine(graphs=EagerGraphs())
    engine.add(make_request("a", prompt, max_tokens=12, stop_token_ids=(stop,)))
    told = []
    while engine.has_work:
        told.append([delta.token_ids for delta in engine.step().deltas])
    until = full.index(stop) + 1
    assert told == [[], *([[token_id]] for token_id in full[:until])]
    engine.add(make_request("b", prompt, max_tokens=3))  # nothing of the surplus is left
    assert output_of(drain(engine)["b", 0]) == full[:3]
    assert engine.stats.num_pages_used == 0


def test_an_answer_of_known_length_is_not_computed_beyond_it() -> None:
    model = FakeModel()
    engine = make_engine(model, graphs=EagerGraphs())
    engine.add(make_request("a", [5, 6, 7], max_tokens=6, ignore_eos=True))
    drain(engine)
    assert model.num_tokens == 3 + 5  # the last token is never computed


def test_an_abort_between_a_step_and_its_tokens_ends_once() -> None:
    engine = make_engine(graphs=EagerGraphs())
    for request_id in ("a", "b"):
        engine.add(make_request(request_id, [1, 2, 3], max_tokens=9, ignore_eos=True))
    for _ in range(4):
        engine.step()
    engine.abort("a")
    engine.add(make_request("a", [4, 5], max_tokens=4))  # the same id, while a token is on its way
    deltas = []
    while engine.has_work:
        deltas += engine.step().deltas
    first, *rest = [delta for delta in deltas if delta.request_id == "a"]
    assert first.finish_reason is FinishReason.ABORT
    assert output_of(rest) == expected_output([4, 5], 4)
    assert [delta.finish_reason for delta in rest].count(None) == len(rest) - 1


def test_a_step_that_fails_keeps_the_tokens_that_were_on_their_way() -> None:
    prompt = [1, 2, 3]
    full = expected_output(prompt, 8)
    model = FakeModel()
    model.failing_ids = {full[2]}
    engine = make_engine(model, graphs=EagerGraphs())
    engine.add(make_request("a", prompt, max_tokens=8))
    (deltas,) = drain(engine).values()
    assert output_of(deltas) == full[:3]
    assert finish_of(deltas) is FinishReason.ERROR
    model.failing_ids = set()
    engine.add(make_request("b", prompt, max_tokens=8))
    assert output_of(drain(engine)["b", 0]) == full


def test_logits_that_are_not_finite_end_their_row_alone() -> None:
    full = expected_output([1, 2, 3], 8)
    other = expected_output([9, 8], 8)
    model = FakeModel()
    model.nan_ids = {full[3]} - set(other)
    assert model.nan_ids
    engine = make_engine(model, graphs=EagerGraphs())
    engine.add(make_request("a", [1, 2, 3], max_tokens=8))
    engine.add(make_request("b", [9, 8], max_tokens=8))
    found = drain(engine)
    assert output_of(found["a", 0]) == full[:4]
    assert found["a", 0][-1].error is not None
    assert "not finite" in found["a", 0][-1].error.message
    assert output_of(found["b", 0]) == other


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, False),
        ({"stop_token_ids": (3,), "min_tokens": 2, "seed": 5, "logit_bias": {3: 1.0}}, False),
        ({"temperature": 0.8, "top_k": 5, "top_p": 0.9, "min_p": 0.1}, False),
        ({"frequency_penalty": 0.5, "presence_penalty": 0.5, "repetition_penalty": 1.2}, False),
        ({"bad_words": ((4, 5),)}, True),
        ({"logprobs": 0}, True),
        ({"prompt_logprobs": 0}, True),
    ],
    ids=str,
)
def test_who_needs_the_host_for_each_token(changes: dict[str, Any], *, expected: bool) -> None:
    engine = make_engine(graphs=EagerGraphs())
    engine.add(make_request("a", [1, 2, 3], **changes))
    (sequence,) = engine._scheduler.waiting
    assert sequence.needs_host is expected


def test_a_sampler_that_fails_ahead_fails_as_it_does_in_turn() -> None:
    class Params(BaseModel):
        fragile: bool = False

    class Fragile:
        def apply(self, logits_RV, rows) -> None:
            logits_RV += 1e9  # what is half done must not stay
            if any(row.position == 6 for row in rows):
                raise ValueError("not this one")
            logits_RV -= 1e9

    spec = SamplerSpec(
        name="fragile",
        stage="bias",
        params=Params,
        is_active=lambda params: params.fragile,
        make=lambda *_: Fragile(),
        reads_history=False,
    )
    outputs = []
    for graphs in (None, EagerGraphs()):
        engine = make_engine(samplers=[spec], graphs=graphs)
        engine.add(make_request("a", [1, 2, 3], extra={"fragile": True}))
        engine.add(make_request("b", [4, 5, 6, 7]))
        found = drain(engine)
        assert "not this one" in found["a", 0][-1].error.message
        outputs.append({key: output_of(deltas) for key, deltas in found.items()})
    assert outputs[0] == outputs[1]
    assert outputs[0]["b", 0] == expected_output([4, 5, 6, 7], 8)


def test_beams_wait_for_their_tokens_beside_others_and_find_the_same_answers() -> None:
    outputs = []
    for graphs in (None, EagerGraphs()):
        engine = make_engine(graphs=graphs, num_pages=60)
        beams = BeamParams(width=3)
        engine.add(make_request("beams", [1, 2, 3, 4, 5], max_tokens=11, beams=beams))
        engine.add(make_request("greedy", [4, 5, 6, 7], max_tokens=20))
        outputs.append({key: output_of(deltas) for key, deltas in drain(engine).items()})
        assert engine.stats.num_pages_used == 0
    assert outputs[0] == outputs[1]
    assert outputs[0]["greedy", 0] == expected_output([4, 5, 6, 7], 20)
