"""The scheduler under any sequence of arrivals, steps, endings and aborts."""

from __future__ import annotations

import pytest
from engine.fake_model import make_request, make_settings
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llmplug.engine.block_pool import BlockPool
from llmplug.engine.cost_model import CostModel
from llmplug.engine.limits import normalise
from llmplug.engine.scheduler import Schedule, Scheduler
from llmplug.engine.sequence import Sequence, derive_seed

SETTINGS = make_settings(
    num_pages=12, page_size=4, max_batch_tokens=10, max_sequences=5, prefill_chunk=6
)


class SchedulerMachine(RuleBasedStateMachine):
    """Plays the engine: every token it is given is taken as computed."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(SETTINGS.num_pages, SETTINGS.page_size)
        self.cost = CostModel()
        self.scheduler = Scheduler(SETTINGS, self.pool, self.cost)
        self.alive: list[Sequence] = []
        self.num_added = 0

    @rule(
        prompt=st.lists(st.integers(0, 2), min_size=1, max_size=40),
        max_tokens=st.integers(1, 30),
        priority=st.integers(-1, 1),
        num_sequences=st.integers(1, 3),
        tenant=st.sampled_from(["", "a", "b"]),
    )
    def add(self, prompt, max_tokens, priority, num_sequences, tenant) -> None:
        request = make_request(
            str(self.num_added),
            prompt,
            max_tokens=max_tokens,
            priority=priority,
            num_sequences=num_sequences,
            tenant=tenant,
        )
        request = normalise(request, SETTINGS.limits)
        leader = None
        for index in range(num_sequences):
            sequence = Sequence(
                request,
                index,
                seed=0,
                eos_token_ids=frozenset(),
                arrival=self.num_added,
                leader=leader,
            )
            leader = leader or sequence
            self.num_added += 1
            self.alive.append(sequence)
            self.scheduler.add(sequence)

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def abort(self, data) -> None:
        sequence = data.draw(st.sampled_from(self.alive))
        self.alive.remove(sequence)
        self.scheduler.remove(sequence)

    @rule(seconds=st.floats(1e-6, 10.0))
    def step(self, seconds=0.01) -> None:
        schedule = self.scheduler.schedule()
        work = list(schedule)
        if work:
            self.cost.observe(schedule.work, seconds)
        assert bool(work) == bool(self.alive), "there is work, but nothing is scheduled"
        assert len({id(sequence) for sequence, _ in work}) == len(work)
        counts = [count for _, count in work]
        assert sum(counts) <= SETTINGS.max_batch_tokens
        assert all(1 <= count <= SETTINGS.prefill_chunk for count in counts)
        assert [count == 1 for count in counts] == sorted((c == 1 for c in counts), reverse=True)
        if work:
            best = min(self.scheduler.running, key=lambda sequence: sequence.rank)
            assert best in [sequence for sequence, _ in work], "the best rank stands still"
        for sequence, count in work:
            assert sequence.is_running
            assert count <= sequence.num_missing
            assert (sequence.num_computed + count) <= len(sequence.pages) * SETTINGS.page_size
            is_complete = count == sequence.num_missing
            self.scheduler.advance(sequence, count)
            if is_complete and sequence.append(len(sequence.output_ids) % 3) is not None:
                self.alive.remove(sequence)
                self.scheduler.remove(sequence)

    @invariant()
    def pages_belong_to_the_running(self) -> None:
        running = self.scheduler.running
        assert len(running) <= SETTINGS.max_sequences
        waiting = list(self.scheduler.waiting)
        assert len(waiting) == len(self.scheduler.waiting)
        assert sorted([*running, *waiting], key=id) == sorted(self.alive, key=id)
        assert [s.rank for s in running] == sorted(s.rank for s in running)
        used = {page for sequence in running for page in sequence.pages}
        assert self.pool.num_used == len(used)
        for sequence in waiting:
            assert not sequence.pages
            assert sequence.num_computed == 0
        # A page of two sequences holds the same tokens for both.
        owner: dict[int, list[int]] = {}
        for sequence in running:
            size = SETTINGS.page_size
            for i, page in enumerate(sequence.pages):
                tokens = sequence.token_ids[: (i + 1) * size]
                if page in owner:
                    assert owner[page] == tokens
                    assert len(tokens) == (i + 1) * size
                owner[page] = tokens

    def teardown(self) -> None:
        for _ in range(3000):
            if not self.alive:
                break
            self.step()
        assert not self.alive, "the rest does not come to an end"
        assert self.pool.num_used == 0


SchedulerMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)
test_scheduler = SchedulerMachine.TestCase


class Pool:
    """A small engine without a model, played step by step."""

    def __init__(self, **changes) -> None:
        self.settings = make_settings(**changes)
        self.pool = BlockPool(self.settings.num_pages, self.settings.page_size)
        self.scheduler = Scheduler(self.settings, self.pool)
        self.num_added = 0
        self.num_finished = 0

    @property
    def alive(self) -> list[Sequence]:
        return [*self.scheduler.running, *self.scheduler.waiting]

    def add(self, prompt: list[int], priority: int = 0, **changes) -> Sequence:
        request = make_request(str(self.num_added), prompt, priority=priority, **changes)
        request = normalise(request, self.settings.limits)
        sequence = Sequence(request, 0, seed=0, eos_token_ids=frozenset(), arrival=self.num_added)
        self.num_added += 1
        self.scheduler.add(sequence)
        return sequence

    def step(self) -> Schedule:
        schedule = self.scheduler.schedule()
        for sequence, count in schedule:
            is_complete = count == sequence.num_missing
            self.scheduler.advance(sequence, count)
            if is_complete and sequence.append(1) is not None:
                self.scheduler.remove(sequence)
                self.num_finished += 1
        return schedule


@given(
    num_pages=st.integers(2, 12),
    page_size=st.integers(1, 4),
    max_sequences=st.integers(1, 5),
    max_batch_tokens=st.integers(5, 20),
    prefill_chunk=st.integers(1, 8),
    is_prefix_cached=st.booleans(),
    arrivals=st.lists(
        st.tuples(
            st.integers(0, 8),  # steps before it
            st.lists(st.integers(0, 1), min_size=1, max_size=30),
            st.integers(1, 25),
            st.integers(-2, 2),
            st.sampled_from(["", "a", "b"]),
        ),
        max_size=10,
    ),
)
@settings(max_examples=300, deadline=None)
def test_everything_ends_whatever_is_preempted(arrivals, **sizes) -> None:
    """Who gives way has the worse rank, so the best goes on, and so in turn do all."""
    pool = Pool(context_length=1000, **sizes)
    capacity = sizes["num_pages"] * sizes["page_size"]
    num_tokens = 0

    def step() -> None:
        before = list(pool.scheduler.running)
        best = min(pool.alive, key=lambda s: s.rank, default=None)
        schedule = pool.step()
        assert (best is None) == (len(schedule) == 0)
        for sequence in before:
            if sequence in pool.scheduler.waiting:  # preempted
                assert sequence is not best
                assert not sequence.pages
        if best in before:
            assert best in [sequence for sequence, _ in schedule]

    for num_steps, prompt, max_tokens, priority, tenant in arrivals:
        for _ in range(num_steps):
            step()
        sequence = pool.add(prompt[: capacity - 1], priority, max_tokens=max_tokens, tenant=tenant)
        num_tokens += sequence.num_prompt + sequence.request.sampling.max_tokens
    num_steps = 0
    while pool.alive:
        step()
        num_steps += 1
        # Had each run alone, a token a step: twice, as preempted ones are computed again.
        assert num_steps <= 2 * num_tokens
    assert pool.num_finished == pool.num_added
    assert pool.pool.num_used == 0
    assert pool.scheduler.num_preemptions <= num_tokens


def fill(pool: Pool, count: int, num_prompt: int = 8, priority: int = 1) -> list[Sequence]:
    """Let sequences decode that share nothing."""
    added = [
        pool.add([i, *range(10, 9 + num_prompt)], priority, max_tokens=100) for i in range(count)
    ]
    while any(sequence.num_missing > 1 or not sequence.is_running for sequence in added):
        pool.step()
    return added


def test_a_better_priority_takes_the_slot_of_the_worst() -> None:
    pool = Pool(max_sequences=3)
    old, middle, new = fill(pool, 3)
    urgent = pool.add([1, 2, 3], 0)
    schedule = pool.step()
    assert schedule.decodes == [old, middle]
    assert schedule.chunks == [(urgent, 3)]
    assert list(pool.scheduler.waiting) == [new]
    assert pool.scheduler.num_preemptions == 1


def test_a_better_priority_takes_no_more_pages_than_it_needs() -> None:
    pool = Pool(num_pages=14, context_length=50)
    running = fill(pool, 4)  # of two pages each
    assert pool.pool.num_free == 6
    urgent = pool.add(list(range(50, 62)), 0)  # three pages, and one to spare for each that runs
    pool.step()
    assert urgent.is_running
    assert [sequence.is_running for sequence in running] == [True, True, True, False]


@pytest.mark.parametrize("priority", [1, 2])
def test_an_equal_or_worse_priority_waits(priority) -> None:
    pool = Pool(max_sequences=3)
    running = fill(pool, 3)
    waiting = pool.add([1, 2, 3], priority)
    for _ in range(5):
        assert pool.step().decodes == running
    assert list(pool.scheduler.waiting) == [waiting]


def test_nobody_is_preempted_in_vain() -> None:
    """What the worse ones hold would not be enough: they go on."""
    pool = Pool(num_pages=26, context_length=80)
    better = fill(pool, 3, num_prompt=16, priority=-1)
    worse = fill(pool, 1, num_prompt=4, priority=1)
    urgent = pool.add(list(range(20, 60)), 0)
    for _ in range(5):
        assert pool.step().decodes == [*better, *worse]
    assert list(pool.scheduler.waiting) == [urgent]
    assert pool.scheduler.num_preemptions == 0


def test_pages_that_better_ones_share_need_not_be_freed() -> None:
    """A prompt of eleven pages of which a running one holds ten needs one of them, not eleven."""
    pool = Pool(num_pages=17, context_length=80, max_batch_tokens=64, prefill_chunk=64)
    prompt = list(range(40))
    better = pool.add([*prompt, 50], -1, max_tokens=19)
    pool.step()
    worse = fill(pool, 2)
    assert pool.pool.num_free == 2
    urgent = pool.add([*prompt, 60], 0)
    pool.step()
    assert urgent.is_running
    assert urgent.num_cached_tokens == 40
    assert better.is_running
    assert [sequence.is_running for sequence in worse] == [True, False]


def test_shared_pages_that_only_worse_ones_hold_are_no_gain() -> None:
    """A prefix that is known through a worse one needs pages of its own once that one is gone."""
    pool = Pool(num_pages=18, context_length=70, max_batch_tokens=64, prefill_chunk=64)
    (better,) = fill(pool, 1, priority=-1)
    prompt = list(range(40))
    worse = pool.add([*prompt, 50], 1, max_tokens=20)
    pool.step()
    urgent = pool.add([*prompt, *range(60, 81)], 0)  # 16 pages and one to spare; 15 would be free
    for _ in range(3):
        assert pool.step().decodes == [better, worse]
    assert not urgent.is_running


def test_not_more_is_preempted_than_a_step_can_compute() -> None:
    pool = Pool(max_sequences=6, max_batch_tokens=16, num_pages=200)
    running = fill(pool, 6)
    urgent = [pool.add([i] * 12, 0) for i in range(60, 66)]
    pool.step()
    assert [sequence.is_running for sequence in urgent] == [True] * 2 + [False] * 4
    assert [sequence.is_running for sequence in running] == [True] * 4 + [False] * 2
    for _ in range(20):
        pool.step()
    assert all(sequence.output_ids for sequence in urgent)


def test_seeds_of_siblings_differ_and_are_int64() -> None:
    for seed in (0, -(2**63), 2**63 - 1):
        seeds = [derive_seed(seed, index) for index in range(128)]
        assert seeds[0] == seed
        assert len(set(seeds)) == 128
        assert all(-(2**63) <= s < 2**63 for s in seeds)
