"""Steps made on the device, one ahead of the host, give the tokens of steps made on the host."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from engine.fake_model import (
    EOS_ID,
    VOCAB_SIZE,
    FakeModel,
    drain,
    finish_of,
    make_engine,
    make_request,
    output_of,
)
from engine.tiny_engine import CPU, SAMPLERS, TinyModel

from llmplug import GenerateRequest, SamplerRow
from llmplug.engine.engine import Engine
from llmplug.engine.flight import Flight
from llmplug.engine.graphs import EagerGraphs, GraphRunner, Step
from llmplug.engine.settings import EngineSettings
from llmplug.ops import KernelChoice, KernelTable, KVCache, penalise_tokens
from llmplug.types import FinishReason, SequenceDelta
from llmplug_standard import llmplug_samplers

Found = dict[tuple[str, int], list[SequenceDelta]]
Event = tuple[int, GenerateRequest | str]  # (step, a request to add, or the id of one to abort)


PENALTIES = [
    {"presence_penalty": 1.5},
    {"frequency_penalty": 0.7},
    {"repetition_penalty": 1.3, "frequency_penalty": -0.4},
    {"repetition_penalty": 0.8, "presence_penalty": 0.5},
]


# Where a kernel serves the op, one sampler stands for all penalties.
SERVED = KernelTable(
    {"penalise_tokens": penalise_tokens},
    (KernelChoice(op="penalise_tokens", kernel="mine", plugin="mine"),),
)


class RepeatingModel(FakeModel):
    """Likes the same tokens whatever came before: what it says next, penalties alone decide."""

    def _logits(self, seen: list[int]) -> torch.Tensor:
        return 5 - 0.3 * ((torch.arange(VOCAB_SIZE) - 10) % VOCAB_SIZE).float()


class CountingGraphs(EagerGraphs):
    """Runs captured steps, and counts them by their rows."""

    def __init__(self) -> None:
        self.bounds: list[tuple[int, ...]] = []  # of each capture
        self.lens: list[tuple[int, ...]] = []  # of each replay

    def capture(self, step: Step, bounds: tuple[int, ...]) -> Step:
        self.bounds.append(bounds)

        def replay(cached_lens: tuple[int, ...]):
            assert len(cached_lens) == len(bounds)
            assert max(cached_lens) <= max(bounds)
            self.lens.append(cached_lens)
            return step(cached_lens)

        return replay


def make_workload(seed: int, num_requests: int = 24) -> list[Event]:
    """Requests of all kinds that come at random, some aborted; prompts share beginnings."""
    source = random.Random(seed)
    beginnings = [[source.randrange(VOCAB_SIZE) for _ in range(24)] for _ in range(3)]
    events: list[Event] = []
    for number in range(num_requests):
        prompt = [source.randrange(VOCAB_SIZE) for _ in range(source.randint(1, 30))]
        if source.random() < 0.5:
            prompt = source.choice(beginnings)[: source.randint(1, 24)] + prompt
        changes: dict[str, Any] = {
            "max_tokens": source.randint(1, 30),
            "seed": source.randrange(1000),
            "temperature": source.choice([0.0, 0.0, 0.9, 3.0]),
            "num_sequences": source.choice([1, 1, 1, 3]),
            "priority": source.choice([0, 0, 0, 1]),
            "ignore_eos": source.random() < 0.5,
            "stop_token_ids": (source.randrange(VOCAB_SIZE),),
            "min_tokens": source.choice([0, 0, 4]),
        }
        changes |= source.choice([{}, {"top_p": 0.9, "top_k": 20}, {"min_p": 0.05}])
        if number % 3 == 0:  # the device counts what the host does not know yet
            changes |= PENALTIES[number % len(PENALTIES)]
        if source.random() < 0.1:  # the first of these needs the host for each token
            changes |= source.choice([{"logprobs": 2}, {"presence_penalty": 1.5}])
        changes["min_tokens"] = min(changes["min_tokens"], changes["max_tokens"])
        step = source.randint(0, 40)
        events.append((step, make_request(str(number), prompt, **changes)))
        if source.random() < 0.2:
            events.append((step + source.randint(1, 20), str(number)))
    return sorted(events, key=lambda event: event[0])


def play(engine: Engine, events: list[Event]) -> Found:
    """Step an engine through a workload to its end."""
    found: Found = {}
    left = list(events)
    for number in range(2000):
        while left and left[0][0] <= number:
            event = left.pop(0)[1]
            if isinstance(event, str):
                engine.abort(event)
            else:
                engine.add(event)
        if engine.has_work:
            for delta in engine.step().deltas:
                found.setdefault((delta.request_id, delta.index), []).append(delta)
            assert_device_knows(engine)
        elif not left:
            break
    for deltas in found.values():
        assert [d.finish_reason is not None for d in deltas] == [False] * (len(deltas) - 1) + [True]
    return found


def count_late_steps(engine: Engine) -> Callable[[], int]:
    """Count the steps whose tokens the host learns one step late, from now on."""
    seen: list[Flight] = []
    read = engine._read

    def read_and_count(flight: Flight):
        seen.extend([flight] * flight.is_late)
        return read(flight)

    engine._read = read_and_count
    return lambda: len(seen)


def assert_device_knows(engine: Engine) -> None:
    """What the device has of each running sequence is what the host has."""
    if engine._ahead is None:
        return
    state = engine._ahead._state
    for sequence in engine._scheduler.running:
        if sequence.row >= 0 and engine._ahead._rows._owners[sequence.row] is sequence:
            assert int(state.lengths_R[sequence.row]) == sequence.num_computed
            pages = state.pages_RM[sequence.row].tolist()
            count = len(sequence.pages)
            assert pages == sequence.pages.tolist() + [-1] * (len(pages) - count)
    assert int(state.lengths_R[-1]) == 0  # of padding


def assert_equal_outputs(got: Found, expected: Found) -> None:
    assert got.keys() == expected.keys()
    for key, deltas in expected.items():
        ours, theirs = output_of(got[key]), output_of(deltas)
        if FinishReason.ABORT in {finish_of(got[key]), finish_of(deltas)}:
            common = min(len(ours), len(theirs))
            assert ours[:common] == theirs[:common]
            continue
        assert ours == theirs
        assert finish_of(got[key]) is finish_of(deltas)
        assert got[key][-1].stop_token_id == deltas[-1].stop_token_id
        assert [d.logprobs for d in got[key] if d.token_ids] == [
            d.logprobs for d in deltas if d.token_ids
        ]


@pytest.mark.parametrize("num_pages", [40, 200])  # 40: sequences must give way
@pytest.mark.parametrize("seed", range(6))
def test_any_workload_gives_the_tokens_of_the_plain_path(seed: int, num_pages: int) -> None:
    events = make_workload(seed)
    changes: dict[str, Any] = {
        "eos_token_ids": frozenset({EOS_ID, EOS_ID - 1, EOS_ID - 2}),
        "num_pages": num_pages,
        "max_sequences": 10,
    }
    graphs = CountingGraphs()
    plain, ahead = make_engine(**changes), make_engine(graphs=graphs, **changes)
    num_late = count_late_steps(ahead)
    assert_equal_outputs(play(ahead, events), play(plain, events))
    assert num_late() > 10
    assert ahead.stats.num_pages_used == 0
    assert not ahead._scheduler.running
    assert graphs.lens  # most decode steps come more than once
    assert len(graphs.bounds) <= 6  # 1, 2, 4, 8, 10 rows, of up to 256 tokens
    if num_pages == 40:
        assert ahead.stats.num_preemptions > 0


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory) -> TinyModel:
    return TinyModel(tmp_path_factory.mktemp("tiny"))


def make_tiny_engine(tiny_model: TinyModel, graphs: GraphRunner | None, **changes: Any) -> Engine:
    settings: dict[str, Any] = {
        "vocab_size": tiny_model._shape.vocab_size,
        "context_length": 128,
        "num_pages": 120,
        "page_size": 4,
        "max_batch_tokens": 48,
        "max_sequences": 12,
        "prefill_chunk": 32,
    }
    return Engine(
        tiny_model._model,
        tiny_model._shape,
        tiny_model._ops,
        SAMPLERS,
        EngineSettings(**{**settings, **changes}),
        CPU,
        graphs=graphs,
    )


@pytest.mark.parametrize("num_pages", [34, 120])
def test_a_llama_over_the_references_gives_the_tokens_of_the_plain_path(
    tiny_model: TinyModel, num_pages: int
) -> None:
    events = make_workload(77, num_requests=14)
    graphs = CountingGraphs()
    plain = make_tiny_engine(tiny_model, None, num_pages=num_pages)
    ahead = make_tiny_engine(tiny_model, graphs, num_pages=num_pages)
    num_late = count_late_steps(ahead)
    assert_equal_outputs(play(ahead, events), play(plain, events))
    assert num_late() > 10
    assert any(0 in lens for lens in graphs.lens)  # some were padded


def test_a_decode_step_writes_the_slots_of_its_tokens_and_no_other(tiny_model: TinyModel) -> None:
    """Three rows are padded to four: whatever the fourth holds, it is kept nowhere."""
    graphs = CountingGraphs()
    engine = make_tiny_engine(tiny_model, graphs)
    for number in range(3):
        prompt = [3 + number, *range(4, 9 + number)]
        engine.add(make_request(str(number), prompt, max_tokens=20, ignore_eos=True))
    for _ in range(6):
        engine.step()
        before = [read_slots(cache) for cache in engine._runner._caches]
        num_replayed = len(graphs.lens)
        places = {s: s.num_computed for s in engine._scheduler.running}
        engine.step()
        expected = {
            sequence.pages[place // 4] * 4 + place % 4 for sequence, place in places.items()
        }
        assert len(expected) == 3
        for cache, old in zip(engine._runner._caches, before, strict=True):
            is_changed = (read_slots(cache) != old).any(1)
            assert set(is_changed.nonzero()[:, 0].tolist()) == expected
    assert graphs.lens[num_replayed:]
    assert graphs.lens[-1][-1] == 0


def test_penalties_count_the_token_that_is_on_its_way() -> None:
    """Greedy answers of a model that repeats itself, one step ahead and in turn."""
    found = []
    for graphs in (None, EagerGraphs()):
        engine = make_engine(RepeatingModel(), graphs=graphs)
        num_late = count_late_steps(engine)
        engine.add(make_request("none", [1, 2], max_tokens=12, ignore_eos=True))
        for number, penalties in enumerate(PENALTIES):
            request = make_request(f"{number}", [3, 4], max_tokens=12, ignore_eos=True, **penalties)
            engine.add(request)
        found.append({key: output_of(deltas) for key, deltas in drain(engine).items()})
        assert (num_late() > 8) == (graphs is not None)
    assert found[0] == found[1]
    assert len(set(found[0]["none", 0])) == 1
    assert all(len(set(found[0][f"{number}", 0])) > 1 for number in (0, 1))


@pytest.mark.parametrize("is_pending", [True, False])
def test_pending_tokens_count_as_known_ones_do(*, is_pending: bool) -> None:
    """Each sampler of penalties: with the last token pending, or in the output."""
    outputs = [[5, 6, 5], [7], [5, 5, 9, 9, 8], [3]]
    values = {"repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.3}
    found = [spec for spec in llmplug_samplers() if spec.takes_pending]
    assert len(found) == 3
    for spec in found:
        params = spec.params(**{name: values[name] for name in spec.params.model_fields})
        sampler = spec.make(VOCAB_SIZE, CPU, SERVED)
        logits_RV = torch.randn(4, VOCAB_SIZE, generator=torch.Generator().manual_seed(0))
        expected_RV = logits_RV.clone()
        sampler.apply(expected_RV, [SamplerRow(params, [3, 9], ids, 0, 9) for ids in outputs])
        assert not torch.equal(expected_RV, logits_RV)
        pending_R, known = torch.full((4,), -1), list(outputs)
        if is_pending:
            pending_R[:3] = torch.tensor([output[-1] for output in outputs[:3]])
            known[:3] = [output[:-1] for output in outputs[:3]]
        rows = [SamplerRow(params, [3, 9], ids, 0, 9) for ids in known]
        sampler.apply(logits_RV, rows, pending_R)
        assert torch.equal(logits_RV, expected_RV), spec.name


def read_slots(cache: KVCache) -> torch.Tensor:
    """Return keys and values of each slot."""
    both = [kept.transpose(1, 2).flatten(0, 1).flatten(1) for kept in (cache.key, cache.value)]
    return torch.cat(both, dim=1).clone()
