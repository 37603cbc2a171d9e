"""Which sequences get how many tokens in the next step. Touches no tensor.

A step takes one token of every sequence that decodes, then chunks of prompts as far as its budget
goes. A sequence gets the pages of all its tokens when it is admitted, and one more whenever it
outgrows them. When none is free, the sequence of the worst rank (priority, then arrival) gives its
pages back and waits: later it computes its tokens again. So do running ones for a waiting one of
better priority that lacks a place. Who gives way has the worse rank, always: the sequence of the
best rank goes on to its end, as `limits` lets none in that does not fit alone.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass, field
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING

from llmplug.engine.block_pool import BlockPool, extend_digests
from llmplug.engine.cost_model import CostModel, Work
from llmplug.engine.fairness import FairShare
from llmplug.engine.step_budget import StepBudget
from llmplug.engine.waiting import WaitingQueue, by_rank

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmplug.engine.sequence import Sequence
    from llmplug.engine.settings import EngineSettings


@dataclass(slots=True)
class Schedule:
    """One step's work: sequences with one new token first, then chunks of several."""

    decodes: list[Sequence] = field(default_factory=list)
    chunks: list[tuple[Sequence, int]] = field(default_factory=list)  # (sequence, new tokens)
    work: Work = field(default_factory=Work)  # what its time depends on
    started: list[Sequence] = field(default_factory=list)  # all they have is new to the device
    grown: list[Sequence] = field(default_factory=list)  # have a page more

    def __len__(self) -> int:
        return len(self.decodes) + len(self.chunks)

    def __iter__(self) -> Iterator[tuple[Sequence, int]]:
        for sequence in self.decodes:
            yield sequence, 1
        yield from self.chunks

    def add(self, sequence: Sequence, num_tokens: int) -> None:
        """Give a sequence tokens in this step."""
        if num_tokens == 1:
            self.decodes.append(sequence)
            self.work.add_decode(sequence.num_computed)
        elif num_tokens:
            self.chunks.append((sequence, num_tokens))
            self.work.add_chunk(sequence.num_computed, num_tokens)


class Scheduler:
    """Holds all sequences that are not finished: waiting, or running in the order of rank."""

    def __init__(
        self, settings: EngineSettings, pool: BlockPool, cost: CostModel | None = None
    ) -> None:
        """Start with none.

        Args:
            cost: fed by whoever runs the steps; left out: chunks have a fixed size.
        """
        self._settings = settings
        self._pool = pool
        self._cost = cost or CostModel()
        self._shares = FairShare()
        self.waiting = WaitingQueue(self._shares)
        self.running: list[Sequence] = []
        self._parked: dict[tuple[int, int], Sequence] = {}  # by rank
        self._resumed: list[Sequence] = []  # since the last schedule
        self.num_preemptions = 0

    @property
    def may_preempt(self) -> bool:
        """Whether the next schedule may take pages from running sequences."""
        if self._pool.num_free < len(self.running):  # each may outgrow its pages
            return True
        best = self.waiting.best_priority if self.waiting and self.running else None
        return best is not None and best < self.running[-1].priority

    def add(self, sequence: Sequence) -> None:
        """Let a sequence wait for its turn."""
        self._shares.enter(sequence, self.running)
        self.waiting.add(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence that has ended, and give its pages back."""
        self._shares.leave(sequence)
        if sequence.is_running:
            del self.running[bisect_left(self.running, sequence.rank, key=by_rank)]
        elif self._parked.pop(sequence.rank, None) is None:
            self.waiting.remove(sequence)
        self._release(sequence)

    def add_parked(self, sequence: Sequence) -> None:
        """Take a sequence that is to `adopt` another's tokens before it runs."""
        self._shares.enter(sequence, self.running)
        self._parked[sequence.rank] = sequence

    def park(self, sequence: Sequence) -> None:
        """Let a running sequence rest until it is resumed.

        It keeps its pages and its place, as long as others are not stuck for want of them.
        """
        del self.running[bisect_left(self.running, sequence.rank, key=by_rank)]
        sequence.is_running = False
        self._parked[sequence.rank] = sequence

    def adopt(self, child: Sequence, parent: Sequence) -> None:
        """Let a parked sequence share another's full pages, as it begins with its tokens."""
        num_shared = min(parent.num_computed, len(child.token_ids) - 1) // self._pool.page_size
        shared = parent.pages[:num_shared]
        self._pool.share(shared)
        self._pool.free(child.pages)
        child.pages = shared
        child.digests = parent.digests[:num_shared]
        child.num_computed = num_shared * self._pool.page_size
        child.num_published = min(parent.num_published, num_shared)
        if child.num_cached_tokens is None:
            child.num_cached_tokens = child.num_prompt  # its tenant pays for the prompt once

    def resume(self, sequence: Sequence) -> None:
        """Let a parked sequence go on; one that lacks pages waits, and gives back what it has."""
        self._parked.pop(sequence.rank)
        # A sequence that decodes grows by itself.
        missing = 0
        if sequence.num_missing > 1:
            missing = self._num_pages(len(sequence.token_ids)) - len(sequence.pages)
        if sequence.pages and self._has_place and missing <= self._pool.num_free:
            sequence.pages.extend(self._pool.allocate(missing))
            sequence.is_running = True
            insort(self.running, sequence, key=by_rank)
            self._resumed.append(sequence)
        else:
            self._release(sequence)
            self.waiting.add(sequence)

    @property
    def _has_place(self) -> bool:
        """Whether one more may run; who is parked with its pages keeps its place."""
        num_held = sum(bool(sequence.pages) for sequence in self._parked.values())
        return len(self.running) + num_held < self._settings.max_sequences

    def schedule(self) -> Schedule:
        """Choose the next step's work; allocate the pages that it writes to."""
        schedule = self._schedule()
        schedule.started += self._resumed
        self._resumed.clear()
        if self._parked and not len(schedule) and self.waiting:
            for sequence in self._parked.values():
                self._release(sequence)
            schedule = self._schedule()
        return schedule

    def _schedule(self) -> Schedule:
        schedule = Schedule()
        if self.waiting:
            self._admit_better(schedule)
        prompts = self._decode(schedule)
        if prompts or self.waiting:
            budget = StepBudget(self._settings, self._cost, schedule)
            for sequence in prompts:
                schedule.add(sequence, budget.take(sequence))
            self._admit(schedule, budget)
        return schedule

    def advance(self, sequence: Sequence, num_tokens: int) -> None:
        """Note that a step has computed tokens; pages that became full can be shared."""
        sequence.num_computed += num_tokens
        if sequence.num_computed // self._pool.page_size > sequence.num_published:
            self.publish(sequence)

    def publish(self, sequence: Sequence) -> None:
        """Let others share the full pages of a sequence, as far as its tokens are known."""
        num_known = min(sequence.num_computed, len(sequence.token_ids))
        num_full = num_known // self._pool.page_size
        if num_full > sequence.num_published and self._settings.is_prefix_cached:
            self._extend_digests(sequence)
            for i in range(sequence.num_published, num_full):
                self._pool.publish(sequence.pages[i], sequence.digests[i])
            sequence.num_published = num_full

    def _decode(self, schedule: Schedule) -> list[Sequence]:
        """Schedule a token of each sequence that decodes; return those still in their prompt."""
        prompts = []
        page_size = self._pool.page_size
        position = 0
        while position < len(self.running):  # preemption shortens the list from its end
            sequence = self.running[position]
            position += 1
            num_computed = sequence.num_computed
            num_missing = len(sequence.token_ids) - num_computed
            if num_missing > 1:
                prompts.append(sequence)
            elif num_missing == 0 and sequence.is_full:  # its last token is on its way
                continue
            elif num_computed < len(sequence.pages) * page_size or self._grow(schedule, sequence):
                schedule.decodes.append(sequence)
                schedule.work.add_decode(num_computed)
        return prompts

    def _grow(self, schedule: Schedule, sequence: Sequence) -> bool:
        """Add a page to a sequence; False: the sequence itself had to give way."""
        while self._pool.num_free == 0:
            victim = self.running[-1]
            self._preempt(victim)
            if victim is sequence:
                return False
        sequence.pages.extend(self._pool.allocate(1))
        schedule.grown.append(sequence)
        return True

    def _preempt(self, victim: Sequence) -> None:
        self.running.pop()
        self._release(victim)
        self.waiting.add(victim)
        self.num_preemptions += 1

    def _release(self, sequence: Sequence) -> None:
        self._pool.free(sequence.pages)
        del sequence.pages[:]
        sequence.num_computed = sequence.num_published = 0
        sequence.is_running = False

    def _admit(self, schedule: Schedule, budget: StepBudget) -> None:
        """Let waiting sequences in, in their order; none overtakes one that lacks room."""
        passed: dict[str, int] = {}
        while budget.has_room and self._has_place:
            sequence = self._find_next(passed)
            if sequence is None or not self._allocate(sequence):
                return
            self._start(schedule, sequence)
            schedule.add(sequence, budget.take(sequence))

    def _admit_better(self, schedule: Schedule) -> None:
        """Let sequences in that running ones of worse priority must make room for.

        Not more of them than a step has tokens for: the others' turn is early enough later.
        """
        passed: dict[str, int] = {}
        while self.running and (best := self.waiting.best_priority) is not None:
            worst = self.running[-1].priority
            if best >= worst:
                return
            sequence = self._find_next(passed)
            if sequence is None or sequence.priority >= worst:
                return
            keep = bisect_right(self.running, sequence.priority, key=lambda other: other.priority)
            num_missing = sum(other.num_missing for other in islice(self.running, keep))
            if num_missing >= self._settings.max_batch_tokens:
                return
            if not self._make_room(sequence, keep):
                return
            self._start(schedule, sequence)

    def _make_room(self, sequence: Sequence, keep: int) -> bool:
        """Take pages for a sequence, preempting those behind the first `keep` as far as needed.

        False: all of them would not be enough, and none is touched.
        """
        if self._has_place and self._allocate(sequence):
            return True
        freed = self._pool.find_freed(other.pages for other in islice(self.running, keep, None))
        cached = self._find_cached(sequence)
        needed = self._num_pages(len(sequence.token_ids)) - len(cached)
        needed += self._pool.count_free(cached) + len(freed.intersection(cached)) + keep
        if keep >= self._settings.max_sequences or needed > self._pool.num_free + len(freed):
            return False
        while True:
            self._preempt(self.running[-1])
            if self._allocate(sequence):
                return True

    def _find_next(self, passed: dict[str, int]) -> Sequence | None:
        """Return who is to be admitted next; who waits for a sibling's pages is passed by."""
        if self._shares.is_contended:
            self._shares.charge_outputs(self.running)
        while (sequence := self.waiting.find_next(passed)) and self._must_follow(sequence):
            tenant = sequence.request.tenant
            passed[tenant] = passed.get(tenant, 0) + 1
        return sequence

    def _start(self, schedule: Schedule, sequence: Sequence) -> None:
        """Make a waiting sequence that has its pages a running one."""
        schedule.started.append(sequence)
        self.waiting.remove(sequence)
        sequence.is_running = True
        insort(self.running, sequence, key=by_rank)

    def _must_follow(self, sequence: Sequence) -> bool:
        """Say whether to wait a moment for pages that a sibling is just computing."""
        leader = sequence.leader
        if leader is None or not leader.is_running or not self._can_share(sequence):
            return False
        num_shared = (sequence.num_prompt - 1) // self._pool.page_size * self._pool.page_size
        return leader.num_published * self._pool.page_size < num_shared

    def _allocate(self, sequence: Sequence) -> bool:
        """Take the pages of all tokens of a sequence, cached ones where there are; or none."""
        cached = self._find_cached(sequence)
        needed = self._num_pages(len(sequence.token_ids)) - len(cached)
        # A page for each running sequence, or the next step would send this one away again.
        spare = len(self.running)
        if needed + self._pool.count_free(cached) + spare > self._pool.num_free:
            return False
        self._pool.share(cached)
        sequence.pages.extend(cached)
        sequence.pages.extend(self._pool.allocate(needed))
        sequence.num_published = len(cached)
        sequence.num_computed = len(cached) * self._pool.page_size
        if sequence.num_cached_tokens is None:
            sequence.num_cached_tokens = sequence.num_computed
            sequence.queue_s = perf_counter() - sequence.arrived_at
            self._shares.charge_prompt(sequence)
        return True

    def _find_cached(self, sequence: Sequence) -> list[int]:
        """Return the pages of the longest cached prefix that leaves a token to compute.

        The next token is chosen from the logits of that one.
        """
        if not self._can_share(sequence):
            return []
        self._extend_digests(sequence)
        num_full = (len(sequence.token_ids) - 1) // self._pool.page_size
        return self._pool.match(islice(sequence.digests, num_full))

    def _can_share(self, sequence: Sequence) -> bool:
        """Say whether cached pages may stand in; who asks for prompt logprobs needs the logits."""
        return self._settings.is_prefix_cached and sequence.prompt_logprobs is None

    def _extend_digests(self, sequence: Sequence) -> None:
        salt = sequence.request.cache_salt
        extend_digests(sequence.digests, sequence.token_ids, self._pool.page_size, salt)

    def _num_pages(self, num_tokens: int) -> int:
        return -(-num_tokens // self._pool.page_size)
