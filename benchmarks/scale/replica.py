"""One server in simulated time, by our scheduler's rules.

A step takes a token of every sequence that decodes, then chunks of prompts as far as its budget
goes: tokens, and seconds while others decode (`llmplug/engine/step_budget.py`). Steps that are
equal are jumped over at once, up to the next end of a prompt, end of an answer, or arrival.

Other than in our engine, a sequence starts when its whole answer fits into the cache, so that none
is ever put back; and conversations leave the prefix cache whole.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

from benchmarks.scale.prefixes import Prefixes
from llmplug.engine.step_budget import AUTO_RATIO, AUTO_S, MIN_CHUNK
from llmplug.server.admission import Admission, Ticket

if TYPE_CHECKING:
    import simpy

    from benchmarks.scale.speed import Speed
    from benchmarks.scale.traffic import Question


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one server; the defaults are those of its config."""

    max_sequences: int = 64
    max_batch_tokens: int = 512
    prefill_chunk: int = 256
    max_waiting: int = 256


@dataclass(slots=True)
class Job:
    """A question while a server has it.

    Attributes:
        started_at, first_at: None until its first step, its first token.
        num_left: of its prompt, tokens that are still to be computed.
    """

    question: Question
    arrived_at: float
    ticket: Ticket
    done: simpy.Event
    num_left: int = 0
    num_cached: int = 0
    started_at: float | None = None
    first_at: float | None = None


@dataclass(slots=True)
class _Stretch:
    """Equal steps."""

    num_steps: int
    step_s: float
    chunks: list[tuple[Job, int]] = field(default_factory=list)  # (job, tokens of each step)


class Replica:
    """A server: takes jobs, ends each once.

    Args:
        number: its name, and its place among the loads.
        is_ready: False until `open`.
    Attributes:
        num_tokens: of the prompts of all jobs that it has: its load.
        busy_s: seconds that it ran steps.
    """

    def __init__(
        self, env: simpy.Environment, number: int, speed: Speed, limits: Limits | None = None
    ) -> None:
        self.number = number
        self.speed = speed
        self.limits = limits or Limits()
        self.admission = Admission(self.limits.max_waiting, clock=lambda: env.now)
        self.prefixes = Prefixes(speed.cache_tokens)
        self.num_tokens = 0
        self.busy_s = 0.0
        self.num_ended = 0
        self.tokens_done = 0  # computed: of prompts, and of answers
        self._env = env
        self._waiting: deque[Job] = deque()
        self._prompts: list[Job] = []
        self._answers: list[tuple[int, int, Job]] = []  # a heap: (its last step, order, job)
        self._order = count()
        self._num_steps = 0
        self._num_read = 0  # tokens cached of all sequences that decode
        self._num_reserved = 0  # tokens of the cache that sequences may yet fill
        self._wake = env.event()
        env.process(self._run())

    @property
    def num_jobs(self) -> int:
        """Questions that run or wait here."""
        return len(self._waiting) + self.num_running

    @property
    def num_running(self) -> int:
        """Sequences that have begun."""
        return len(self._prompts) + len(self._answers)

    def take(self, question: Question) -> Job:
        """Let a question wait for its turn.

        Raises:
            Overloaded: the queue is full.
        """
        ticket = self.admission.enter(1)
        job = Job(question, self._env.now, ticket, self._env.event())
        self._waiting.append(job)
        self.num_tokens += question.num_prompt
        if self.num_running < self.limits.max_sequences and not self._wake.triggered:
            self._wake.succeed()
        return job

    def _run(self) -> Generator[simpy.Event, Any, None]:
        while True:
            self._admit()
            if not self.num_running:
                yield self._wake
                self._wake = self._env.event()
                continue
            stretch = self._plan()
            began = self._env.now
            yield self._env.timeout(stretch.num_steps * stretch.step_s) | self._wake
            num_steps = stretch.num_steps
            if self._wake.triggered:
                self._wake = self._env.event()
                # Whoever came begins with the step after the one that runs.
                num_steps = min(num_steps, int((self._env.now - began) / stretch.step_s) + 1)
                yield self._env.timeout(
                    max(0.0, began + num_steps * stretch.step_s - self._env.now)
                )
            self.busy_s += self._env.now - began
            self._advance(stretch, num_steps)

    def _admit(self) -> None:
        """Let waiting jobs in, in their order; none overtakes one that lacks room."""
        while self._waiting and self.num_running < self.limits.max_sequences:
            question = self._waiting[0].question
            needed = question.num_prompt + question.num_output
            if self._num_reserved and self._num_reserved + needed > self.speed.cache_tokens:
                return
            job = self._waiting.popleft()
            self._num_reserved += needed
            job.started_at = self._env.now
            # The next token is chosen from the logits of the last one, which is computed always.
            job.num_cached = min(self.prefixes.match(question.parts), question.num_prompt - 1)
            job.num_left = question.num_prompt - job.num_cached
            self._prompts.append(job)

    def _plan(self) -> _Stretch:
        """Choose the next steps: how many are equal, and what each takes."""
        num_answers = len(self._answers)
        decode_s = self.speed.decode_s(num_answers, self._num_read)
        num_steps = self._answers[0][0] - self._num_steps if self._answers else 1 << 30
        stretch = _Stretch(num_steps, decode_s)
        limit_s = max(AUTO_S, AUTO_RATIO * decode_s) if num_answers else math.inf
        num_free = self.limits.max_batch_tokens - num_answers
        for job in self._prompts:
            tokens = min(job.num_left, self.limits.prefill_chunk, num_free)
            before = job.question.num_prompt - job.num_left
            fitting = self._fit_chunk(before, limit_s - stretch.step_s)
            if fitting < tokens:
                floor = 0 if stretch.chunks else MIN_CHUNK
                tokens = min(tokens, max(floor, int(fitting) // MIN_CHUNK * MIN_CHUNK))
            if tokens <= 0:
                break
            stretch.chunks.append((job, tokens))
            # What a chunk costs grows with what lies before it: so far steps are taken as equal.
            alike = max(self.limits.prefill_chunk, before // 8) // tokens
            stretch.num_steps = max(1, min(stretch.num_steps, job.num_left // tokens, alike))
            grown = tokens * (stretch.num_steps - 1) / 2
            stretch.step_s += self.speed.chunk_s(before + grown, tokens)
            if job.num_left == tokens:
                stretch.step_s += self.speed.sampled
            num_free -= tokens
        if not stretch.chunks:  # the cache grows meanwhile
            stretch.step_s += self.speed.read * num_answers * (stretch.num_steps - 1) / 2
        return stretch

    def _fit_chunk(self, num_cached: int, seconds: float) -> float:
        """Return how many tokens of a prompt take so long; as `CostModel.fit_chunk`."""
        if seconds == math.inf:
            return math.inf
        pair = self.speed.pair
        slope = self.speed.token + pair * num_cached
        if seconds <= 0:
            return 0.0
        divisor = slope + math.sqrt(slope * slope + 2 * pair * seconds)
        return 2 * seconds / divisor if divisor else math.inf

    def _advance(self, stretch: _Stretch, num_steps: int) -> None:
        """Do what steps do."""
        self._num_steps += num_steps
        self._num_read += num_steps * len(self._answers)
        self.tokens_done += num_steps * len(self._answers)
        while self._answers and self._answers[0][0] <= self._num_steps:
            _, _, job = heapq.heappop(self._answers)
            self._num_read -= job.question.num_prompt + job.question.num_output - 1
            self._end(job)
        for job, tokens in stretch.chunks:
            job.num_left -= num_steps * tokens
            self.tokens_done += num_steps * tokens
            if job.num_left == 0:
                self._prompts.remove(job)
                self._begin_answer(job)

    def _begin_answer(self, job: Job) -> None:
        """The last step of a prompt gives the first token."""
        question = job.question
        job.first_at = self._env.now
        job.ticket.start()
        if question.parts:
            self.prefixes.hold(*question.parts[0])
        if question.num_output == 1:
            self._end(job)
            return
        last = self._num_steps + question.num_output - 1
        heapq.heappush(self._answers, (last, next(self._order), job))
        self._num_read += question.num_prompt

    def _end(self, job: Job) -> None:
        question = job.question
        said = question.num_prompt + question.num_output
        self._num_reserved -= said
        self.num_tokens -= question.num_prompt
        self.num_ended += 1
        job.ticket.close()
        if question.parts:
            self.prefixes.hold(question.conversation, said - question.parts[0][1])
        job.done.succeed()
