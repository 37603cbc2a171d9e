"""The pooling engine: who is read when, and that nothing is left of what has ended."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from engine.fake_reader import FakeReader, expected_mean, make_pooling_engine

from llmplug import ContextLengthExceeded, EngineError, InvalidRequest, UnsupportedParameter
from llmplug.engine.pooling import MAX_FAILED_STEPS, PoolingEngine, make_text_batch
from llmplug.types import PoolRequest, PoolResult


def ask(request_id: str, *prompts: list[int], **fields: Any) -> PoolRequest:
    return PoolRequest(request_id=request_id, prompts=list(prompts), **fields)


def run(engine: PoolingEngine) -> dict[str, PoolResult]:
    results = [result for _ in iter(lambda: engine.has_work, False) for result in step(engine)]
    found = {result.request_id: result for result in results}
    assert len(found) == len(results)  # exactly one of each
    assert is_empty(engine)
    return found


def step(engine: PoolingEngine) -> list[PoolResult]:
    return engine.step().results


def is_empty(engine: PoolingEngine) -> bool:
    return not engine._entries and not engine._queue and engine.stats.num_waiting == 0


def vectors_of(result: PoolResult) -> list[list[float]]:
    assert result.error is None
    values = np.frombuffer(result.values, "<f4")
    return [each.tolist() for each in np.split(values, np.cumsum(result.lengths)[:-1])]


# --- what comes out -----------------------------------------------------------------------------
def test_vectors_are_the_texts_own_in_their_order() -> None:
    engine = make_pooling_engine()
    rng = random.Random(1)
    asked = {
        name: [[rng.randrange(97) for _ in range(rng.randint(1, 20))] for _ in range(7)]
        for name in "abc"
    }
    for name, prompts in asked.items():
        engine.add(ask(name, *prompts))
    for name, result in run(engine).items():
        for vector, prompt in zip(vectors_of(result), asked[name], strict=True):
            assert vector == pytest.approx(expected_mean(prompt))


def test_each_step_has_a_place_for_what_its_layers_share() -> None:
    first, second = (
        make_text_batch([[5, 6], [7]], [[], []], torch.device("cpu")).starts for _ in range(2)
    )
    assert list(first) == [0, 2, 3]
    first.plans["mine"] = 1
    assert second.plans == {}


def test_a_text_without_types_beside_one_with_some() -> None:
    engine = make_pooling_engine()
    engine.add(ask("a", [1, 2], type_ids=[[0, 1]]))
    engine.add(ask("b", [1, 2]))
    found = run(engine)
    assert vectors_of(found["a"]) == [[1.5, 0.5, 0.5, 1.0]]
    assert vectors_of(found["b"]) == [[1.5, 0.5, 0.0, 1.0]]


def test_requests_of_all_shapes_share_a_step() -> None:
    engine = make_pooling_engine()
    engine.add(ask("plain", [3, 5]))
    engine.add(ask("cut", [3, 5], dimensions=2, is_normalised=True))
    engine.add(ask("tokens", [3, 5], task="token_embed", dimensions=2))
    found = {result.request_id: vectors_of(result) for result in step(engine)}
    length = math.hypot(4, 0.5)
    assert found["plain"] == [[4.0, 0.5, 0.0, 1.0]]
    assert found["cut"] == [pytest.approx([4 / length, 0.5 / length])]
    assert found["tokens"] == [[3.0, 0.0, 5.0, 1.0]]


def test_scores_of_labels() -> None:
    engine = make_pooling_engine(task="classify")
    engine.add(ask("a", [3, 5], [1], task="classify"))
    assert vectors_of(run(engine)["a"]) == [[8.0, 1.0], [2.0, 0.0]]


# --- who is next --------------------------------------------------------------------------------
def test_requests_take_turns() -> None:
    reader = FakeReader()
    engine = make_pooling_engine(reader, max_texts=3)
    engine.add(ask("many", [1], [2], [3], [4], [5]))
    engine.add(ask("one", [90]))
    assert [result.request_id for result in step(engine)] == ["one"]
    run(engine)
    assert reader.batches == [[[1], [90], [2]], [[3], [4], [5]]]


def test_a_better_priority_comes_first_and_stays_in_its_order() -> None:
    reader = FakeReader()
    engine = make_pooling_engine(reader, max_texts=2)
    engine.add(ask("later", [1], [2]))
    engine.add(ask("first", [10], priority=-1))
    engine.add(ask("second", [20], priority=-1))
    engine.add(ask("last", [30], priority=4))
    run(engine)
    assert reader.batches == [[[10], [20]], [[1], [2]], [[30]]]


def test_steps_keep_their_bounds_and_a_long_text_has_one_of_its_own() -> None:
    reader = FakeReader()
    engine = make_pooling_engine(reader, max_batch_tokens=10, max_texts=3)
    rng = random.Random(2)
    lengths = [rng.randint(1, 32) for _ in range(60)]
    for i in range(0, 60, 5):
        engine.add(ask(f"r{i}", *([7] * length for length in lengths[i : i + 5])))
    run(engine)
    read = [[len(text) for text in batch] for batch in reader.batches]
    assert sorted(x for batch in read for x in batch) == sorted(lengths)
    assert all(len(batch) <= 3 for batch in read)
    assert all(sum(batch) <= 10 or len(batch) == 1 for batch in read)


# --- how requests end ---------------------------------------------------------------------------
@pytest.mark.parametrize("num_steps", range(5))
def test_an_abort_at_any_moment_leaves_nothing(num_steps: int) -> None:
    reader = FakeReader()
    engine = make_pooling_engine(reader, max_texts=2)
    engine.add(ask("gone", [1], [2], [3], [4]))
    engine.add(ask("stays", [5], [6], [7]))
    results = [result for _ in range(num_steps) for result in step(engine)]
    num_before = len(reader.batches)
    engine.abort("gone")
    engine.abort("gone")
    results += run(engine).values()
    assert {result.request_id for result in results} - {"gone"} == {"stays"}
    later = [text for batch in reader.batches[num_before:] for text in batch]
    assert all(text[0] > 4 for text in later)


def test_a_failing_step_ends_its_requests_and_no_others(caplog) -> None:
    reader = FakeReader()
    reader.failing_ids = {13}
    engine = make_pooling_engine(reader, max_texts=2)
    engine.add(ask("bad", [13], [1]))
    engine.add(ask("beside", [2], [3]))
    engine.add(ask("after", [4]))
    failed = {result.request_id: result.error for result in step(engine)}
    assert set(failed) == {"bad", "beside"}
    assert all(error is not None for error in failed.values())
    assert vectors_of(run(engine)["after"]) == [expected_mean([4])]
    assert "a step failed" in caplog.text
    engine.add(ask("bad", [6]))  # its id is free again
    assert vectors_of(run(engine)["bad"]) == [expected_mean([6])]


def test_an_engine_that_always_fails_gives_itself_up() -> None:
    reader = FakeReader()
    reader.failing_ids = {13}
    engine = make_pooling_engine(reader)
    for i in range(MAX_FAILED_STEPS - 1):
        engine.add(ask(f"bad{i}", [13]))
        run(engine)
    engine.add(ask("good", [1]))  # a step that goes well starts the count anew
    run(engine)
    for i in range(MAX_FAILED_STEPS - 1):
        engine.add(ask(f"bad{i}", [13]))
        run(engine)
    engine.add(ask("last", [13]))
    with pytest.raises(EngineError, match="in succession"):
        engine.step()


@pytest.mark.parametrize(
    ("request_", "error", "param"),
    [
        (ask("a"), InvalidRequest, "input"),
        (ask("a", []), InvalidRequest, "input[0]"),
        (ask("a", [1], [97]), InvalidRequest, "input[1]"),
        (ask("a", [True]), InvalidRequest, "input[0]"),
        (ask("a", [1] * 33), ContextLengthExceeded, "input[0]"),
        (ask("a", [1], dimensions=5), InvalidRequest, "dimensions"),
        (ask("a", [1], priority=2**31), InvalidRequest, "priority"),
        (ask("a", [1, 2], type_ids=[[0]]), InvalidRequest, "type_ids"),
        (ask("a", [1], task="classify"), UnsupportedParameter, "task"),
        (ask("", [1]), InvalidRequest, None),
    ],
)
def test_what_is_refused_leaves_nothing(
    request_: PoolRequest, error: type[InvalidRequest], param: str | None
) -> None:
    engine = make_pooling_engine()
    with pytest.raises(error) as caught:
        engine.add(request_)
    assert caught.value.param == param
    assert is_empty(engine)


def test_an_id_in_use_is_refused() -> None:
    engine = make_pooling_engine()
    engine.add(ask("a", [1]))
    with pytest.raises(InvalidRequest, match="in use"):
        engine.add(ask("a", [2]))
    assert vectors_of(run(engine)["a"]) == [expected_mean([1])]


def test_stats_count_texts_and_tokens() -> None:
    engine = make_pooling_engine(max_texts=2)
    engine.add(ask("a", [1, 2], [3], [4, 5, 6]))
    assert engine.stats.num_waiting == 3
    stats = engine.step().stats
    assert (stats.num_waiting, stats.num_steps, stats.num_prompt_tokens) == (1, 1, 3)
    engine.step()
    assert (engine.stats.num_waiting, engine.stats.num_prompt_tokens) == (0, 6)
