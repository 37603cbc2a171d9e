"""A rank that does what it is told does what rank 0 did: the same caches and states, to the bit.

Rank 0 runs whole workloads, and what it says is written down; then another runner is told of it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import pytest
import torch
from engine.fake_model import (
    CPU,
    OPS,
    SHAPE,
    VOCAB_SIZE,
    FakeModel,
    drain,
    expected_output,
    finish_of,
    make_request,
    make_settings,
    output_of,
)
from pydantic import BaseModel

from llmplug import SamplerSpec
from llmplug.engine.device_runner import make_runner
from llmplug.engine.engine import Engine
from llmplug.engine.graphs import EagerGraphs, GraphRunner
from llmplug.engine.pooling import make_text_batch
from llmplug.engine.ranks.follow import ReaderCalls, RunnerCalls
from llmplug.engine.ranks.leading_runner import LeadingReader, LeadingRunner
from llmplug.engine.ranks.messages import Call, ComputeLogits, KeepTokens, RunStep
from llmplug.engine.runner import RunnerLost
from llmplug.ops import TextBatch
from llmplug.types import BeamParams, FinishReason
from llmplug_standard import llmplug_samplers

SETTINGS = make_settings(num_pages=48, max_sequences=8)  # few: some sequences must give way


class Tape:
    """What rank 0 says, in the form in which it is sent; stands for group and collective."""

    def __init__(self) -> None:
        self.calls: list[bytes] = []
        self.kept: list[torch.Tensor] = []

    def tell(self, call: Call) -> None:
        self.calls.append(msgspec.msgpack.encode(call))

    def broadcast(self, x: torch.Tensor) -> torch.Tensor:
        self.kept.append(x.clone())
        return x

    def read(self) -> list[Call]:
        return [msgspec.msgpack.decode(call, type=Call) for call in self.calls]


class Player:
    """The other rank's end of the collective."""

    def __init__(self, tape: Tape) -> None:
        self._kept = iter(tape.kept)

    def broadcast(self, x: torch.Tensor) -> torch.Tensor:
        return x.copy_(next(self._kept))


def make_leader(tape: Tape, graphs: GraphRunner | None, samplers: Any = ()) -> Engine:
    return Engine(
        FakeModel(), SHAPE, OPS, [*llmplug_samplers(), *samplers], SETTINGS, CPU, graphs=graphs,
        lead=partial(LeadingRunner, group=tape, collective=tape),
    )  # fmt: skip


def follow(tape: Tape, graphs: GraphRunner | None, calls: list[Call]) -> Any:
    runner = make_runner(FakeModel(), SHAPE, OPS, SETTINGS, CPU, graphs)
    make = RunnerCalls(runner, Player(tape), CPU)
    with torch.inference_mode():
        for call in calls:
            make(call)
    return runner


def read_state(runner: Any) -> list[torch.Tensor]:
    state = [runner._caches[0].key]
    return [*state, runner._state._flat] if hasattr(runner, "_state") else state


def run_workload(engine: Engine, seed: int) -> None:
    """Requests that ask for all that calls the model, some aborted on the way."""
    source = random.Random(seed)
    beginning = [source.randrange(VOCAB_SIZE) for _ in range(24)]
    asking: list[dict[str, Any]] = [
        {}, {}, {"temperature": 1.0}, {"logprobs": 2}, {"prompt_logprobs": 1, "logprobs": 0},
        {"num_sequences": 3, "temperature": 2.0}, {"beams": BeamParams(width=3)},
    ]  # fmt: skip
    for number in range(30):
        prompt = [source.randrange(VOCAB_SIZE) for _ in range(source.randint(1, 40))]
        if source.random() < 0.5:
            prompt = beginning + prompt
        changes = {"max_tokens": source.randint(1, 20), "seed": number, **source.choice(asking)}
        if "beams" in changes:
            changes["temperature"] = None
        engine.add(make_request(str(number), prompt, **changes))
        for _ in range(source.randint(0, 3)):
            if engine.has_work:
                engine.step()
        if source.random() < 0.2:
            engine.abort(str(source.randint(0, number)))
    drain(engine)


@pytest.mark.parametrize("make_graphs", [lambda: None, EagerGraphs])
def test_a_rank_that_is_told_ends_up_where_rank_0_is(
    make_graphs: Callable[[], GraphRunner | None],
) -> None:
    tape = Tape()
    engine = make_leader(tape, make_graphs())
    with torch.inference_mode():
        run_workload(engine, seed=5)
    assert engine.stats.num_preemptions > 0
    assert engine.stats.num_cached_tokens > 0
    calls = tape.read()
    assert sum(isinstance(call, RunStep) for call in calls) == engine.stats.num_steps
    told = [type(call) for call in calls]
    assert ComputeLogits in told  # of prompts
    assert (KeepTokens in told) == (make_graphs() is not None)
    ours = read_state(engine._runner._runner)
    theirs = read_state(follow(tape, make_graphs(), calls))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("left_out", [RunStep, KeepTokens])
def test_a_rank_that_misses_a_call_does_not(left_out: type) -> None:
    """What the test above compares tells one call from none."""
    tape = Tape()
    engine = make_leader(tape, EagerGraphs())
    engine.add(make_request("a", [1, 2, 3], max_tokens=9))
    drain(engine)
    calls = tape.read()
    place = max(i for i, call in enumerate(calls) if isinstance(call, left_out))
    if left_out is KeepTokens:
        del tape.kept[-1]
    theirs = read_state(follow(tape, EagerGraphs(), calls[:place] + calls[place + 1 :]))
    ours = read_state(engine._runner._runner)
    assert not all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_step_is_one_message() -> None:
    tape = Tape()
    engine = make_leader(tape, None)
    engine.add(make_request("a", [1, 2, 3], max_tokens=5))
    assert output_of(drain(engine)["a", 0]) == expected_output([1, 2, 3], 5)
    assert [type(call) for call in tape.read()] == [RunStep] * 5


def test_logits_that_a_sampler_spoilt_are_computed_again_by_all() -> None:
    class Spoiling:
        def apply(self, logits_RV: torch.Tensor, rows: Any) -> None:
            logits_RV.zero_()
            if len(rows) > 1:
                raise ValueError("not in a batch")

    class Params(BaseModel):
        spoils: bool = False

    spec = SamplerSpec(
        name="spoiling", stage="bias", params=Params, is_active=lambda params: params.spoils,
        make=lambda vocab_size, device, ops: Spoiling(),
    )  # fmt: skip
    tape = Tape()
    engine = make_leader(tape, None, [spec])
    for name in "ab":
        engine.add(make_request(name, [1, 2, 3], max_tokens=2, extra={"spoils": True}))
    found = drain(engine)
    assert {finish_of(deltas) for deltas in found.values()} == {FinishReason.LENGTH}
    assert [type(call) for call in tape.read()].count(ComputeLogits) == 2


def test_a_call_that_fails_is_the_engine_s_end() -> None:
    """The other ranks may wait in the middle of a sum: no step follows."""
    tape = Tape()
    engine = make_leader(tape, None)
    engine._runner._runner._model.failing_ids.add(7)
    engine.add(make_request("a", [7]))
    with pytest.raises(RunnerLost, match="rank 0 failed in the middle of a step: this step fails"):
        engine.step()


def test_logits_of_an_earlier_step_are_refused() -> None:
    engine = make_leader(Tape(), None)
    engine.add(make_request("a", [1, 2, 3]))
    engine.step()
    with pytest.raises(ValueError, match="of the last step alone"):
        engine._runner.compute_logits(torch.zeros(3, VOCAB_SIZE), [2])


class NotesTexts:
    """A reader that computes nothing."""

    def __init__(self) -> None:
        self.batches: list[TextBatch] = []

    def encode(self, batch: TextBatch) -> torch.Tensor:
        self.batches.append(batch)
        return torch.empty(0)


@pytest.mark.parametrize("type_ids", [[(), (), ()], [(), (0, 1), ()]])
def test_a_reader_reads_the_texts_that_rank_0_reads(type_ids: list[tuple[int, ...]]) -> None:
    """Of both segments: every rank adds their embeddings itself."""
    tape, first, second = Tape(), NotesTexts(), NotesTexts()
    batch = make_text_batch([(5, 6, 2**40), (7, 8), (9,)], type_ids, CPU)
    LeadingReader(first, tape).encode(batch)  # type: ignore[arg-type]
    for call in tape.read():
        ReaderCalls(second, CPU)(call)
    ((told,), (read,)) = first.batches, second.batches
    assert read.starts == told.starts
    assert torch.equal(read.token_ids_T, told.token_ids_T)
    assert torch.equal(read.positions_T, told.positions_T)
    if any(type_ids):
        assert read.type_ids_T is not None
        assert read.type_ids_T.tolist() == [0, 0, 0, 0, 1, 0]
    else:
        assert read.type_ids_T is None
