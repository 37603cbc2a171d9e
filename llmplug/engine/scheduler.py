"""Which sequences get how many tokens in the next step. Touches no tensor.

A step takes one token of every sequence that decodes, then chunks of prompts as far as
`max_batch_tokens` goes. A sequence gets the pages of all its tokens when it is admitted, and one
more whenever it outgrows them. When none is free, the sequence of the worst rank (priority, then
arrival) gives its pages back and waits: later it computes its tokens again. The sequence of the
best rank can always go on, as `limits` lets none in that does not fit alone.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from llmplug.engine.block_pool import BlockPool, extend_digests

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmplug.engine.sequence import Sequence
    from llmplug.engine.settings import EngineSettings


@dataclass(slots=True)
class Schedule:
    """One step's work: sequences with one new token first, then chunks of several."""

    decodes: list[Sequence] = field(default_factory=list)
    chunks: list[tuple[Sequence, int]] = field(default_factory=list)  # (sequence, new tokens)

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
        else:
            self.chunks.append((sequence, num_tokens))


def _rank(sequence: Sequence) -> tuple[int, int]:
    return sequence.rank


class Scheduler:
    """Holds all sequences that are not finished: waiting or running, each list by rank."""

    def __init__(self, settings: EngineSettings, pool: BlockPool) -> None:
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.num_preemptions = 0
        self._settings = settings
        self._pool = pool

    def add(self, sequence: Sequence) -> None:
        """Let a sequence wait for its turn."""
        insort(self.waiting, sequence, key=_rank)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence that has ended, and give its pages back."""
        queue = self.running if sequence.is_running else self.waiting
        del queue[bisect_left(queue, sequence.rank, key=_rank)]
        self._release(sequence)

    def schedule(self) -> Schedule:
        """Choose the next step's work; allocate the pages that it writes to."""
        schedule = Schedule()
        budget = self._settings.max_batch_tokens
        budget -= sum(sequence.num_missing == 1 for sequence in self.running)
        position = 0
        while position < len(self.running):  # preemption shortens the list from its end
            sequence = self.running[position]
            missing = sequence.num_missing
            count = 1 if missing == 1 else min(missing, self._settings.prefill_chunk, budget)
            if count > 0 and self._grow(sequence, count):
                schedule.add(sequence, count)
                budget -= 0 if missing == 1 else count
            position += 1
        self._admit(schedule, budget)
        return schedule

    def advance(self, sequence: Sequence, num_tokens: int) -> None:
        """Note that a step has computed tokens; pages that became full can be shared."""
        sequence.num_computed += num_tokens
        num_full = sequence.num_computed // self._pool.page_size
        if num_full > sequence.num_published and self._settings.is_prefix_cached:
            self._extend_digests(sequence)
            for i in range(sequence.num_published, num_full):
                self._pool.publish(sequence.pages[i], sequence.digests[i])
            sequence.num_published = num_full

    def _grow(self, sequence: Sequence, count: int) -> bool:
        """Make room for new tokens; False: the sequence itself had to give way."""
        needed = self._num_pages(sequence.num_computed + count) - len(sequence.pages)
        while needed > self._pool.num_free:
            victim = self.running[-1]
            self._preempt(victim)
            if victim is sequence:
                return False
        if needed > 0:
            sequence.pages.extend(self._pool.allocate(needed))
        return True

    def _preempt(self, victim: Sequence) -> None:
        self.running.pop()
        self._release(victim)
        insort(self.waiting, victim, key=_rank)
        self.num_preemptions += 1

    def _release(self, sequence: Sequence) -> None:
        self._pool.free(sequence.pages)
        del sequence.pages[:]
        sequence.num_computed = sequence.num_published = 0
        sequence.is_running = False

    def _admit(self, schedule: Schedule, budget: int) -> None:
        """Let waiting sequences in, in their order; none overtakes one that lacks room."""
        position = 0
        while (
            budget > 0
            and position < len(self.waiting)
            and len(self.running) < self._settings.max_sequences
        ):
            sequence = self.waiting[position]
            if self._must_follow(sequence):
                position += 1
                continue
            if not self._allocate(sequence):
                return
            del self.waiting[position]
            sequence.is_running = True
            insort(self.running, sequence, key=_rank)
            count = min(sequence.num_missing, self._settings.prefill_chunk, budget)
            schedule.add(sequence, count)
            budget -= count

    def _must_follow(self, sequence: Sequence) -> bool:
        """Say whether to wait a moment for pages that a sibling is just computing."""
        leader = sequence.leader
        if leader is None or not leader.is_running or not self._can_share(sequence):
            return False
        num_shared = (sequence.num_prompt - 1) // self._pool.page_size * self._pool.page_size
        return leader.num_computed < num_shared

    def _allocate(self, sequence: Sequence) -> bool:
        """Take the pages of all tokens of a sequence, cached ones where there are; or none."""
        cached: list[int] = []
        if self._can_share(sequence):
            self._extend_digests(sequence)
            # One token at least is computed: the next is chosen from its logits.
            num_full = (len(sequence.token_ids) - 1) // self._pool.page_size
            cached = self._pool.match(islice(sequence.digests, num_full))
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
        return True

    def _can_share(self, sequence: Sequence) -> bool:
        """Say whether cached pages may stand in; who asks for prompt logprobs needs the logits."""
        return self._settings.is_prefix_cached and sequence.prompt_logprobs is None

    def _extend_digests(self, sequence: Sequence) -> None:
        salt = sequence.request.cache_salt
        extend_digests(sequence.digests, sequence.token_ids, self._pool.page_size, salt)

    def _num_pages(self, num_tokens: int) -> int:
        return -(-num_tokens // self._pool.page_size)
