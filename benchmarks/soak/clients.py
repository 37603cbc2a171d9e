"""One request after another, and what became of each."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import httpx

from benchmarks.soak.questions import Question, choose_question
from benchmarks.soak.replies import BrokenReplyError, Reply, read_stream, read_whole

HANG_S = 90.0  # a request that has not ended by then never will
LEAVE_SHARE = 0.05  # of the clients that stream go away in the middle
# A client that is told to come back later does so after this long, whatever the server asks for.
PAUSES_S = (0.3, 1.5)
REFUSALS = {429, 503}


class Kind(StrEnum):
    """How a request ended."""

    ANSWERED = "answered"
    FAILED = "failed"  # with one terminal event, or an error's body
    REFUSED = "refused"  # 429 or 503, and when to come back
    LEFT = "left"  # by its client
    LOST = "lost"  # the connection broke
    WRONG = "wrong"  # in any other way


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request; times are of the monotonic clock."""

    kind: Kind
    started: float
    ended: float
    words: str = ""


@dataclass(slots=True)
class Crowd:
    """Clients of one server, and how their requests ended.

    Attributes:
        answers: by path and text, from before the storm.
        think_s: mean of what a client waits between two requests.
    """

    url: str
    model: str
    answers: Mapping[tuple[str, int], str]
    think_s: float = 0.0
    outcomes: list[Outcome] = field(default_factory=list)

    async def run(self, num_clients: int, has_ended: Callable[[], bool], seed: int) -> None:
        """Ask until it has ended, each client one request at a time."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=num_clients)
        async with open_client(self.url, limits) as http, asyncio.TaskGroup() as group:
            for number in range(num_clients):
                rng = random.Random(f"{seed}/{number}")
                group.create_task(self._run_client(http, rng, has_ended))

    async def _run_client(
        self, http: httpx.AsyncClient, rng: random.Random, has_ended: Callable[[], bool]
    ) -> None:
        while not has_ended():
            question = choose_question(rng)
            leaves = question.is_streamed and rng.random() < LEAVE_SHARE
            started = time.monotonic()
            kind, words = await self._ask(http, question, leaves=leaves)
            self.outcomes.append(Outcome(kind, started, time.monotonic(), words))
            if kind in {Kind.REFUSED, Kind.LOST}:
                await asyncio.sleep(rng.uniform(*PAUSES_S))
            await asyncio.sleep(rng.uniform(0.0, 2 * self.think_s))

    async def _ask(
        self, http: httpx.AsyncClient, question: Question, *, leaves: bool
    ) -> tuple[Kind, str]:
        try:
            async with asyncio.timeout(HANG_S):
                return await self._read(http, question, leaves=leaves)
        except TimeoutError:
            return Kind.WRONG, f"{question} hangs"
        except httpx.ConnectError as error:  # the socket outlives the process: nobody is refused
            return Kind.WRONG, f"cannot connect: {error!r}"
        except httpx.TransportError as error:
            return Kind.LOST, repr(error)
        except BrokenReplyError as error:
            return Kind.WRONG, f"{question}: {error}"

    async def _read(
        self, http: httpx.AsyncClient, question: Question, *, leaves: bool
    ) -> tuple[Kind, str]:
        body = question.body(self.model)
        async with http.stream("POST", question.path, json=body) as response:
            if response.status_code != httpx.codes.OK:
                await response.aread()
                return judge_refusal(response)
            if leaves:
                async for _ in response.aiter_bytes():
                    return Kind.LEFT, ""
            await response.aread()
        reply = (
            read_stream(question.path, response.text)
            if question.is_streamed
            else read_whole(question.path, response.json())
        )
        return self._compare(question, reply)

    def _compare(self, question: Question, reply: Reply) -> tuple[Kind, str]:
        """An answer is the one from before the storm, and a failed one is a part of it."""
        expected = self.answers[question.path, question.text]
        if reply.error:
            is_right = expected.startswith(reply.text.rstrip("\ufffd"))
            return (Kind.FAILED if is_right else Kind.WRONG), reply.error
        if reply.text == expected:
            return Kind.ANSWERED, ""
        return Kind.WRONG, f"{question}: {reply.text!r} in place of {expected!r}"


def judge_refusal(response: httpx.Response) -> tuple[Kind, str]:
    """Say what an answer of another status than 200 is."""
    words = f"{response.status_code} {response.text[:200]}"
    if response.status_code in REFUSALS and response.headers.get("Retry-After", "").isdigit():
        return Kind.REFUSED, words
    if response.status_code == httpx.codes.INTERNAL_SERVER_ERROR:
        return Kind.FAILED, words
    return Kind.WRONG, words


def open_client(url: str, limits: httpx.Limits | None = None) -> httpx.AsyncClient:
    """A client whose patience has no end: `HANG_S` is over all of a request."""
    return httpx.AsyncClient(
        base_url=url, timeout=None, trust_env=False, limits=limits or httpx.Limits()
    )


async def read_answers(
    http: httpx.AsyncClient, questions: list[Question], model: str
) -> AsyncIterator[tuple[tuple[str, int], str]]:
    """Ask each question once, alone; yield its path and text, and the answer."""
    for question in questions:
        response = await http.post(question.path, json=question.body(model))
        body = response.raise_for_status().json()
        yield (question.path, question.text), read_whole(question.path, body).text
