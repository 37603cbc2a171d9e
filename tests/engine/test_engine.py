"""The engine over a model whose answers are known: any scheduling gives the same tokens."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch
from engine.fake_model import (
    EOS_ID,
    VOCAB_SIZE,
    FakeModel,
    assert_is_empty,
    drain,
    expected_output,
    finish_of,
    make_engine,
    make_request,
    next_token,
    output_of,
)

from llmplug import InvalidRequest
from llmplug.engine import engine as engine_module
from llmplug.engine.cost_model import Work
from llmplug.types import FinishReason


def make_prompts(count: int, longest: int = 60, seed: int = 3) -> list[list[int]]:
    source = random.Random(seed)
    return [
        [source.randrange(VOCAB_SIZE) for _ in range(source.randint(1, longest))]
        for _ in range(count)
    ]


@pytest.mark.parametrize("prefill_chunk", [1, 3, 16, 64])
@pytest.mark.parametrize("num_pages", [24, 64, 400])  # 24: one sequence of the longest
def test_greedy_is_the_same_under_any_schedule(prefill_chunk, num_pages) -> None:
    prompts = make_prompts(16)
    engine = make_engine(prefill_chunk=prefill_chunk, num_pages=num_pages, max_batch_tokens=48)
    for i, prompt in enumerate(prompts):
        engine.add(make_request(str(i), prompt, max_tokens=1 + 2 * i))
    found = drain(engine)
    for i, prompt in enumerate(prompts):
        assert output_of(found[str(i), 0]) == expected_output(prompt, 1 + 2 * i)
        assert finish_of(found[str(i), 0]) is FinishReason.LENGTH
    assert_is_empty(engine)
    if num_pages != 64:
        assert (engine.stats.num_preemptions > 0) == (num_pages == 24)
    assert engine.stats.num_prompt_tokens == sum(map(len, prompts))
    assert engine.stats.num_generated_tokens == sum(1 + 2 * i for i in range(16))


def test_requests_that_come_late_join_the_batch() -> None:
    prompts = make_prompts(12)
    engine = make_engine(num_pages=40)
    deltas = []
    for i, prompt in enumerate(prompts):
        engine.add(make_request(str(i), prompt, max_tokens=20))
        deltas += engine.step().deltas
    rest = drain(engine)
    for i, prompt in enumerate(prompts):
        early = [d for d in deltas if d.request_id == str(i)]
        assert output_of([*early, *rest.get((str(i), 0), [])]) == expected_output(prompt, 20)
    assert_is_empty(engine)


def test_end_of_sequence_ends_it_and_is_the_last_token() -> None:
    prompt = next(
        p for p in make_prompts(500) if EOS_ID in expected_output(p, 20) and next_token(p) != EOS_ID
    )
    full = expected_output(prompt, 20)
    until = full.index(EOS_ID) + 1
    engine = make_engine(eos_token_ids=frozenset({EOS_ID}))
    engine.add(make_request("ends", prompt, max_tokens=20))
    engine.add(make_request("goes on", prompt, max_tokens=20, ignore_eos=True))
    found = drain(engine)
    assert output_of(found["ends", 0]) == full[:until]
    assert finish_of(found["ends", 0]) is FinishReason.STOP
    assert found["ends", 0][-1].stop_token_id == EOS_ID
    assert output_of(found["goes on", 0]) == full
    assert found["goes on", 0][-1].stop_token_id is None


def test_stop_token_ids_and_min_tokens() -> None:
    prompt = [5, 6, 7]
    full = expected_output(prompt, 30)
    stop = full[4]
    engine = make_engine()
    engine.add(make_request("stops", prompt, max_tokens=30, stop_token_ids=(stop,)))
    engine.add(make_request("held", prompt, max_tokens=30, stop_token_ids=(stop,), min_tokens=10))
    found = drain(engine)
    assert output_of(found["stops", 0]) == full[: full.index(stop) + 1]
    assert found["stops", 0][-1].stop_token_id == stop
    held = output_of(found["held", 0])
    assert stop not in held[:10]
    assert held[: full.index(stop)] == full[: full.index(stop)]


def test_abort_between_steps_frees_all_and_ends_once() -> None:
    engine = make_engine(num_pages=40)
    for i, prompt in enumerate(make_prompts(10)):
        engine.add(make_request(str(i), prompt, max_tokens=30))
    for _ in range(4):
        engine.step()
    for i in range(0, 10, 2):
        engine.abort(str(i))
    engine.abort("never there")
    found = drain(engine)
    reasons = [finish_of(found[str(i), 0]) for i in range(10)]
    assert reasons == [FinishReason.ABORT, FinishReason.LENGTH] * 5
    assert_is_empty(engine)


def test_abort_of_one_sequence_lets_its_siblings_go_on() -> None:
    engine = make_engine()
    engine.add(make_request("a", [1, 2, 3], num_sequences=3, max_tokens=6))
    engine.step()
    engine.abort("a", 1)
    found = drain(engine)
    assert finish_of(found["a", 1]) is FinishReason.ABORT
    for index in (0, 2):
        assert finish_of(found["a", index]) is FinishReason.LENGTH


def test_num_sequences_share_the_prompt_and_differ_by_seed() -> None:
    model = FakeModel()
    engine = make_engine(model, max_batch_tokens=256, prefill_chunk=256)
    prompt = make_prompts(1, seed=1)[0] * 3
    count = len(prompt)
    engine.add(make_request("a", prompt, num_sequences=5, max_tokens=4, temperature=50.0, seed=11))
    found = drain(engine)
    outputs = [tuple(output_of(found["a", i])) for i in range(5)]
    assert len(set(outputs)) == 5
    shared = (count - 1) // 4 * 4
    assert model.num_tokens == count + 4 * (count - shared) + 5 * 3
    assert [found["a", i][0].num_cached_tokens for i in range(5)] == [0] + [shared] * 4


def test_num_sequences_hold_the_pages_of_the_prompt_once() -> None:
    """Ten full pages of the prompt are everybody's; its end and the answer are each one's own."""
    engine = make_engine(max_batch_tokens=256, prefill_chunk=256)
    engine.add(make_request("a", range(42), num_sequences=5, max_tokens=8, ignore_eos=True))
    used = []
    while engine.has_work:
        engine.step()
        used.append(engine.stats.num_pages_used)
    assert max(used) == 10 + 5 * 2  # the last token is never computed


def test_a_better_priority_gets_in_at_once_and_nobody_loses_a_token() -> None:
    prompts = make_prompts(6)
    engine = make_engine(max_sequences=3)
    for i in range(5):
        engine.add(make_request(str(i), prompts[i], max_tokens=40, priority=1))
    for _ in range(10):
        engine.step()
    engine.add(make_request("5", prompts[5], max_tokens=3))
    early = [delta for _ in range(8) for delta in engine.step().deltas]
    assert finish_of([d for d in early if d.request_id == "5"]) is FinishReason.LENGTH
    assert engine.stats.num_preemptions > 0
    found = drain(engine)
    assert_is_empty(engine)
    assert sorted(found) == [(str(i), 0) for i in range(5)]


def test_seconds_are_told_by_phase(monkeypatch) -> None:
    """The clock is read five times a step: seconds 1, 2, 4 and 8 go by between."""
    durations = itertools.cycle([0, 1, 2, 4, 8])
    clock = itertools.accumulate(durations)
    monkeypatch.setattr(engine_module, "perf_counter", clock.__next__)
    engine = make_engine()
    seen: list[float] = []
    engine._cost.observe = lambda work, seconds: seen.append(seconds)
    engine.add(make_request("a", [1, 2, 3], max_tokens=3))
    drain(engine)
    stats = engine.stats
    assert stats.num_steps == 3
    seconds = (stats.schedule_s, stats.run_s, stats.sample_s, stats.record_s)
    assert seconds == (3 * 1, 3 * 2, 3 * 4, 3 * 8)
    assert seen == [2 + 4] * 3  # a device is waited for while sampling


def test_the_cost_model_hears_of_each_step_once() -> None:
    engine = make_engine(prefill_chunk=16, max_batch_tokens=16)
    seen: list[Work] = []
    engine._cost.observe = lambda work, seconds: seen.append(work)
    engine.add(make_request("a", range(40), max_tokens=3))
    drain(engine)
    # Of the first two steps nothing was chosen: they count with the third.
    assert [(w.num_steps, w.num_tokens) for w in seen] == [(3, 40), (1, 1), (1, 1)]
    assert [w.num_read for w in seen] == [16 + 32 + 40, 41, 42]


def test_prefix_cache_is_told_salted_and_gives_the_same_tokens() -> None:
    model = FakeModel()
    engine = make_engine(model)
    prompt = list(range(50))

    def run(request_id: str, prompt_ids: list[int], salt: str = "") -> tuple[list[int], int, int]:
        before = model.num_tokens
        engine.add(make_request(request_id, prompt_ids, cache_salt=salt))
        deltas = drain(engine)[request_id, 0]
        return output_of(deltas), deltas[0].num_cached_tokens, model.num_tokens - before

    cold = run("cold", prompt)
    assert cold == (expected_output(prompt, 8), 0, 50 + 7)
    assert run("warm", prompt) == (cold[0], 48, 2 + 7)
    assert run("other salt", prompt, "tenant")[1] == 0
    other = [*prompt[:21], 90, *prompt[22:]]
    assert run("other middle", other)[:2] == (expected_output(other, 8), 20)
    grown = [*prompt, *cold[0]]
    assert run("next turn", grown)[:2] == (expected_output(grown, 8), 56)
    assert engine.stats.num_cached_tokens == 48 + 20 + 56
    assert_is_empty(engine)


def test_prefix_cache_can_be_off() -> None:
    engine = make_engine(is_prefix_cached=False)
    for request_id in ("a", "b"):
        engine.add(make_request(request_id, list(range(40))))
        deltas = drain(engine)[request_id, 0]
        assert deltas[0].num_cached_tokens == 0
        assert output_of(deltas) == expected_output(list(range(40)), 8)


def test_priority_runs_first() -> None:
    engine = make_engine(max_sequences=1)
    engine.add(make_request("late", [1, 2], priority=5))
    engine.add(make_request("normal", [3, 4]))
    engine.add(make_request("soon", [5, 6], priority=-5))
    order = list(drain(engine))
    assert order == [("soon", 0), ("normal", 0), ("late", 0)]


def test_a_refused_request_leaves_nothing() -> None:
    engine = make_engine()
    for i in range(100):
        with pytest.raises(InvalidRequest):
            engine.add(make_request(str(i), [VOCAB_SIZE]))
    with pytest.raises(InvalidRequest, match="No sampler"):
        engine.add(make_request("extra", [1], extra={"unheard_of": 1}))
    engine.add(make_request("a", [1]))
    with pytest.raises(InvalidRequest, match="in use"):
        engine.add(make_request("a", [1]))
    assert list(drain(engine)) == [("a", 0)]
    assert_is_empty(engine)


@pytest.mark.parametrize("prefill_chunk", [1, 5, 64])
def test_logprobs_are_those_of_the_raw_distribution(prefill_chunk) -> None:
    engine = make_engine(prefill_chunk=prefill_chunk, num_pages=100)
    prompt = list(range(30, 52))
    engine.add(
        make_request("a", prompt, logprobs=3, prompt_logprobs=2, temperature=0.3, top_k=2, seed=1)
    )
    engine.add(make_request("b", prompt))
    deltas = drain(engine)["a", 0]
    tokens = [*prompt, *output_of(deltas)]
    model = FakeModel()
    logprobs = [torch.log_softmax(model._logits(tokens[:i]), -1) for i in range(1, len(tokens))]
    rated = [*deltas[0].prompt_logprobs[1:], *(lp for d in deltas for lp in d.logprobs)]
    assert deltas[0].prompt_logprobs[0] is None
    assert len(rated) == len(logprobs)
    for position, (found, logprobs_V) in enumerate(zip(rated, logprobs, strict=True), start=1):
        count = 2 if position < len(prompt) else 3
        assert found.token_id == tokens[position]
        assert math.isclose(found.logprob, logprobs_V[found.token_id], abs_tol=1e-6)
        assert found.rank == int((logprobs_V > logprobs_V[found.token_id]).sum()) + 1
        best = logprobs_V.topk(count)
        assert [token_id for token_id, _ in found.top] == best.indices.tolist()


def test_prompt_logprobs_survive_preemption() -> None:
    prompts = make_prompts(6, longest=40, seed=9)
    engine = make_engine(num_pages=24, context_length=80, prefill_chunk=7)
    for i, prompt in enumerate(prompts):
        engine.add(make_request(str(i), prompt, prompt_logprobs=0, max_tokens=30))
    found = drain(engine)
    assert engine.stats.num_preemptions > 0
    for i, prompt in enumerate(prompts):
        first = found[str(i), 0][0].prompt_logprobs
        assert [lp and lp.token_id for lp in first] == [None, *prompt[1:]]


def test_rows_whose_samplers_meet_late_keep_their_own_parameters() -> None:
    """The first has a penalty more: at its temperature it meets the second, which waits there."""
    both = [
        make_request("first", [5, 6, 7], temperature=30.0, seed=1, presence_penalty=0.5),
        make_request("second", [8, 9], temperature=0.3, seed=2),
    ]
    together = make_engine()
    for request in both:
        together.add(request)
    found = drain(together)
    for request in both:
        alone = make_engine()
        alone.add(request)
        (deltas,) = drain(alone).values()
        assert output_of(found[request.request_id, 0]) == output_of(deltas)
