"""Many servers in simulated time, and what became of each request.

A user sends a question, reads the answer, thinks, and asks again. Whoever is refused comes back
after what `Retry-After` says, as often as clients of OpenAI's do, and then gives up, together with
the rest of the conversation.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import simpy

from benchmarks.scale.replica import Job, Limits, Replica
from benchmarks.scale.scaling import Autoscaler, ScalingRules
from llmplug.errors import Overloaded

if TYPE_CHECKING:
    from benchmarks.scale.routing import Router
    from benchmarks.scale.speed import Speed
    from benchmarks.scale.traffic import Conversation, Question

MAX_RETRIES = 2  # of openai and anthropic's clients


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request; times are simulated seconds.

    Attributes:
        first_at, ended_at: None: it was given up.
        num_refused: answers of 429 before that.
    """

    question: Question
    asked_at: float
    first_at: float | None
    ended_at: float | None
    num_refused: int
    num_cached: int = 0
    server: int = -1


@dataclass(slots=True)
class Watch:
    """The mean of a number over time."""

    since: float = 0.0
    value: float = 0.0
    area: float = 0.0

    def change(self, now: float, by: float) -> None:
        """Note that the number has grown or shrunk."""
        self.area += self.value * (now - self.since)
        self.since = now
        self.value += by


@dataclass(frozen=True, slots=True)
class Sight:
    """What was to be seen at one time: servers that run, that start, and questions with them."""

    at: float
    num_open: int
    num_starting: int
    num_jobs: int


@dataclass(slots=True)
class Report:
    """All that came of a run."""

    outcomes: list[Outcome] = field(default_factory=list)
    inside: Watch = field(default_factory=Watch)  # questions that servers have
    server_s: float = 0.0  # seconds of all servers, from when they were wished for
    sights: list[Sight] = field(default_factory=list)


class Fleet:
    """Servers, and who sends requests where.

    Args:
        stale_s: what the router knows of loads is up to so old; 0: it knows them.
        rules: None: as many servers as at the start.
    """

    def __init__(
        self,
        speed: Speed,
        num_servers: int,
        router: Router,
        *,
        limits: Limits | None = None,
        stale_s: float = 0.0,
        rules: ScalingRules | None = None,
    ) -> None:
        self.env = simpy.Environment()
        self.report = Report()
        self._speed = speed
        self._limits = limits or Limits()
        self._router = router
        most = rules.max_servers if rules else num_servers
        self._loads = np.full(most, math.inf)
        self._seen = self._loads
        self._servers: list[Replica | None] = [None] * most
        self._closing: list[Replica] = []
        self._num_starting = 0
        self._is_over = False
        for place in range(num_servers):
            self._open(place)
        if stale_s:
            self._seen = self._loads.copy()
            self.env.process(self._look(stale_s))
        if rules:
            self.env.process(self._scale(rules))

    def run(self, conversations: Iterable[Conversation]) -> Report:
        """Let conversations happen until the last one is over."""
        everyone = self.env.process(self._begin_all(conversations))
        self.env.run(until=everyone)
        self._is_over = True
        self.report.inside.change(self.env.now, 0)
        self.report.server_s += sum(self.env.now for one in self._servers if one)
        return self.report

    def watch_busy(self, since: float, until: float) -> list[float]:
        """Return a list that will hold the part of this time that servers ran steps."""
        found: list[float] = []

        def look() -> Generator[simpy.Event, Any, None]:
            yield self.env.timeout(since)
            before = sum(one.busy_s for one in self.servers)
            yield self.env.timeout(until - since)
            busy_s = sum(one.busy_s for one in self.servers) - before
            found.append(busy_s / (until - since) / len(self.servers))

        self.env.process(look())
        return found

    @property
    def servers(self) -> list[Replica]:
        """Those that are open."""
        return [one for one in self._servers if one]

    def _begin_all(
        self, conversations: Iterable[Conversation]
    ) -> Generator[simpy.Event, Any, None]:
        running = []
        for conversation in conversations:
            yield self.env.timeout(conversation.starts_at - self.env.now)
            running.append(self.env.process(self._converse(conversation)))
        yield from running

    def _converse(self, conversation: Conversation) -> Generator[simpy.Event, Any, None]:
        for question, think_s in zip(conversation.questions, conversation.think_s, strict=True):
            outcome = yield from self._ask(question)
            self.report.outcomes.append(outcome)
            if outcome.ended_at is None:
                return
            yield self.env.timeout(think_s)

    def _ask(self, question: Question) -> Generator[simpy.Event, Any, Outcome]:
        asked_at = self.env.now
        for num_refused in range(MAX_RETRIES + 1):
            place = self._router.choose(question, self._seen)
            server = self._servers[place]
            try:
                if server is None:  # it was closed since the router looked
                    raise Overloaded("closed", retry_after_s=1)
                job = server.take(question)
            except Overloaded as refusal:
                if num_refused < MAX_RETRIES:
                    yield self.env.timeout(refusal.retry_after_s)
                continue
            yield from self._wait(job, place, server)
            around = self._speed.around
            first_at = (job.first_at or 0.0) + around
            return Outcome(
                question,
                asked_at,
                first_at,
                self.env.now + around,
                num_refused,
                job.num_cached,
                place,
            )
        return Outcome(question, asked_at, None, None, MAX_RETRIES + 1)

    def _wait(self, job: Job, place: int, server: Replica) -> Generator[simpy.Event, Any, None]:
        self.report.inside.change(self.env.now, 1)
        self._loads[place] += job.question.num_prompt
        yield job.done
        if self._servers[place] is server:
            self._loads[place] -= job.question.num_prompt
        self.report.inside.change(self.env.now, -1)

    def _look(self, stale_s: float) -> Generator[simpy.Event, Any, None]:
        while not self._is_over:
            self._seen = self._loads.copy()
            yield self.env.timeout(stale_s)

    def _open(self, place: int) -> None:
        self._servers[place] = Replica(self.env, place, self._speed, self._limits)
        self._loads[place] = 0.0
        self.report.server_s -= self.env.now

    def _close(self, place: int) -> None:
        """Send nothing more to a server; what it has, it finishes."""
        server = self._servers[place]
        if server is None:
            raise ValueError(f"{place} is closed")
        self._servers[place] = None
        self._loads[place] = math.inf
        self.report.server_s += self.env.now
        self._closing.append(server)

    def _scale(self, rules: ScalingRules) -> Generator[simpy.Event, Any, None]:
        scaler = Autoscaler(rules)
        tokens_before = 0
        while not self._is_over:
            yield self.env.timeout(rules.period_s)
            num_open = len(self.servers)
            # Those that start count as idle: else each look would ask for them once more.
            num_servers = num_open + self._num_starting
            self._closing = [one for one in self._closing if one.num_jobs]
            jobs = sum(one.num_jobs for one in self.servers)
            tokens = sum(one.tokens_done for one in self.servers)
            means = {
                "sequences": jobs / num_servers,
                "tokens_per_s": max(0, tokens - tokens_before) / rules.period_s / num_servers,
            }
            tokens_before = tokens
            watched = {name: means[name] for name in rules.targets}
            wanted = scaler.decide(self.env.now, num_servers, watched)
            self._change(wanted - num_servers, rules.start_s)
            self.report.sights.append(Sight(self.env.now, num_open, self._num_starting, jobs))

    def _change(self, by: int, start_s: float) -> None:
        for _ in range(by):
            self._num_starting += 1
            self.env.process(self._start(start_s))
        for _ in range(-by):
            places = [place for place, one in enumerate(self._servers) if one]
            if len(places) > 1:
                self._close(min(places, key=lambda place: self._loads[place]))

    def _start(self, start_s: float) -> Generator[simpy.Event, Any, None]:
        yield self.env.timeout(start_s)
        self.report.server_s += start_s
        self._num_starting -= 1
        self._open(self._servers.index(None))
