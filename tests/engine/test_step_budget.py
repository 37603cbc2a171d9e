"""Chunks on a device whose times are known: what a step takes, and that prompts go on."""

from __future__ import annotations

import math

import pytest
from engine.fake_model import make_request, make_settings

from llmplug.engine.block_pool import BlockPool
from llmplug.engine.cost_model import CostModel, Work
from llmplug.engine.scheduler import Schedule, Scheduler
from llmplug.engine.sequence import Sequence
from llmplug.errors import ConfigError

PAGE = 16
STEP_S, TOKEN_S, READ_S, PAIR_S = 8e-3, 9e-4, 2e-7, 6e-8


class Server:
    """A scheduler and a clock: a step of so many tokens takes so many seconds."""

    def __init__(self, slowness: float = 1.0, *, is_learning: bool = True, **changes) -> None:
        defaults = {
            "context_length": 8192,
            "page_size": PAGE,
            "num_pages": 4096,
            "max_batch_tokens": 512,
            "max_sequences": 32,
            "prefill_chunk": 256,
        }
        self.settings = make_settings(**{**defaults, **changes})
        self.slowness = slowness
        self.is_learning = is_learning
        self.cost = CostModel()
        self.scheduler = Scheduler(
            self.settings, BlockPool(self.settings.num_pages, PAGE), self.cost
        )
        self.num_added = 0

    def add(self, num_prompt: int, **changes) -> Sequence:
        request = make_request(
            str(self.num_added), [self.num_added % 90] * num_prompt, max_tokens=4000, **changes
        )
        sequence = Sequence(request, 0, seed=0, eos_token_ids=frozenset(), arrival=self.num_added)
        self.num_added += 1
        self.scheduler.add(sequence)
        return sequence

    def seconds(self, work: Work) -> float:
        found = STEP_S + TOKEN_S * work.num_tokens + READ_S * work.num_read
        return self.slowness * (found + PAIR_S * work.num_pairs)

    def step(self) -> tuple[Schedule, float]:
        schedule = self.scheduler.schedule()
        seconds = self.seconds(schedule.work)
        if self.is_learning:
            self.cost.observe(schedule.work, seconds)
        for sequence, count in schedule:
            is_complete = count == sequence.num_missing
            self.scheduler.advance(sequence, count)
            if is_complete:
                sequence.append(5)
        return schedule, seconds

    def start_decoding(self, count: int) -> None:
        """Bring sequences with long prompts to decode: the model has seen what chunks cost."""
        started = [self.add(600) for _ in range(count)]
        while any(sequence.num_missing > 1 for sequence in started):
            self.step()
        for _ in range(20):
            self.step()


@pytest.mark.parametrize("inter_token_ms", [40.0, 100.0, 200.0])
def test_prompts_take_what_a_step_may_take_beside_decodes(inter_token_ms) -> None:
    server = Server(inter_token_ms=inter_token_ms)
    server.start_decoding(4)
    late = server.add(4000)
    times = []
    while late.num_missing > 1:
        schedule, seconds = server.step()
        assert len(schedule.decodes) == 4
        times.append(seconds)
        ((_, count),) = schedule.chunks
        assert count % PAGE == 0 or late.num_missing == 1
    # Full to a page, but for the last step, the model's error and the bounds of a chunk.
    page_s = PAGE * (TOKEN_S + READ_S + PAIR_S * 4000)
    for seconds in times[:-1]:
        assert seconds < inter_token_ms / 1000 * 1.1
        assert seconds > inter_token_ms / 1000 * 0.9 - page_s


def test_auto_is_fifty_ms_where_decodes_are_fast() -> None:
    server = Server(slowness=0.5)
    server.start_decoding(4)
    server.add(3000)
    for _ in range(8):
        schedule, seconds = server.step()
        assert len(schedule.decodes) == 4
        assert 0.035 < seconds < 0.055


def test_auto_is_four_times_the_decodes_where_they_are_slow() -> None:
    server = Server(slowness=10.0)
    server.start_decoding(8)
    _, alone_s = server.step()
    assert alone_s > 0.1
    server.add(3000)
    for _ in range(8):
        schedule, seconds = server.step()
        assert len(schedule.decodes) == 8
        assert 2.6 * alone_s < seconds < 4.4 * alone_s


def test_a_prompt_goes_on_where_decodes_alone_take_too_long() -> None:
    server = Server(inter_token_ms=5.0)
    server.start_decoding(8)
    late, later = server.add(200), server.add(200)
    for _ in range(-(-200 // PAGE)):
        assert late.num_missing > 1
        schedule, _ = server.step()
        assert len(schedule.decodes) == 8
        assert sum(count for _, count in schedule.chunks) in (PAGE, 200 % PAGE)
    assert late.num_missing == 1
    assert later.num_computed == 0
    for _ in range(-(-200 // PAGE)):
        server.step()
    assert later.num_missing == 1


def test_nothing_decodes_so_a_prompt_gets_all() -> None:
    server = Server(inter_token_ms=20.0)
    server.start_decoding(1)
    server.scheduler.remove(server.scheduler.running[0])
    first, second, third = (server.add(1000) for _ in range(3))
    schedule, _ = server.step()
    assert schedule.chunks == [(first, 256), (second, 256)]
    assert third.num_computed == 0


@pytest.mark.parametrize(("inter_token_ms", "is_learning"), [(20.0, False), (math.inf, True)])
def test_chunks_have_a_fixed_size_while_the_cost_is_unknown_or_nobody_reads_along(
    inter_token_ms, is_learning
) -> None:
    server = Server(inter_token_ms=inter_token_ms, is_learning=is_learning)
    server.start_decoding(4)
    late = server.add(1000)
    counts = []
    while late.num_missing > 1:
        schedule, _ = server.step()
        counts += [count for _, count in schedule.chunks]
    assert counts == [256, 256, 256, 232]


def test_several_short_prompts_share_a_step() -> None:
    server = Server(inter_token_ms=100.0)
    server.start_decoding(4)
    for _ in range(6):
        server.add(40)
    schedule, seconds = server.step()
    assert len(schedule.decodes) == 4
    assert [count for _, count in schedule.chunks][:2] == [40, 40]
    assert seconds < 0.11


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_a_target_is_positive(value) -> None:
    with pytest.raises(ConfigError, match="inter_token_ms"):
        make_settings(inter_token_ms=value)
