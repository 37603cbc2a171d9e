"""The scheduler under any sequence of arrivals, steps, endings and aborts."""

from __future__ import annotations

from engine.fake_model import make_request, make_settings
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llmplug.engine.block_pool import BlockPool
from llmplug.engine.limits import normalise
from llmplug.engine.scheduler import Scheduler
from llmplug.engine.sequence import Sequence, derive_seed

SETTINGS = make_settings(
    num_pages=12, page_size=4, max_batch_tokens=10, max_sequences=5, prefill_chunk=6
)


class SchedulerMachine(RuleBasedStateMachine):
    """Plays the engine: every token it is given is taken as computed."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(SETTINGS.num_pages, SETTINGS.page_size)
        self.scheduler = Scheduler(SETTINGS, self.pool)
        self.alive: list[Sequence] = []
        self.num_added = 0

    @rule(
        prompt=st.lists(st.integers(0, 2), min_size=1, max_size=40),
        max_tokens=st.integers(1, 30),
        priority=st.integers(-1, 1),
        num_sequences=st.integers(1, 3),
    )
    def add(self, prompt, max_tokens, priority, num_sequences) -> None:
        request = make_request(
            str(self.num_added),
            prompt,
            max_tokens=max_tokens,
            priority=priority,
            num_sequences=num_sequences,
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

    @rule()
    def step(self) -> None:
        schedule = self.scheduler.schedule()
        work = list(schedule)
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
        assert sorted(running + self.scheduler.waiting, key=id) == sorted(self.alive, key=id)
        for queue in (running, self.scheduler.waiting):
            assert [s.rank for s in queue] == sorted(s.rank for s in queue)
        used = {page for sequence in running for page in sequence.pages}
        assert self.pool.num_used == len(used)
        for sequence in self.scheduler.waiting:
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


def test_seeds_of_siblings_differ_and_are_int64() -> None:
    for seed in (0, -(2**63), 2**63 - 1):
        seeds = [derive_seed(seed, index) for index in range(128)]
        assert seeds[0] == seed
        assert len(set(seeds)) == 128
        assert all(-(2**63) <= s < 2**63 for s in seeds)
