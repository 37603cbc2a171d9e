"""Conversations with the published statistics of real ones, drawn from a seed.

Nobody's trace is here: what was published of traces says how lengths and moments are drawn.
- Conversations begin in bursts: intervals are gamma distributed (BurstGPT, arXiv 2401.17644;
  ServeGen, arXiv 2505.09999, finds gamma and Weibull).
- Answers' lengths are exponential, messages' log-normal (ServeGen).
- Medians of prompts and answers are those of two services (Splitwise, arXiv 2311.18677), means and
  the share of prompts that a boundless cache would hold those of a third (Mooncake, arXiv
  2407.00079).
What they do not say is chosen so that those numbers come out, and marked as chosen.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Profile:
    """What users of one kind do. Lengths are tokens.

    Attributes:
        instructions: what an application puts before each of its conversations.
        num_applications: how many there are; the first has the most users (Zipf).
        message, spread: median of what a user writes, and sigma of its logarithm.
        opening: so many times as long is the first message.
        answer: mean.
        turns: mean of questions in a conversation; their number is geometric.
        think_s: mean between an answer's end and the next question; exponential.
        burstiness: standard deviation / mean of the intervals between conversations' beginnings.
    """

    instructions: int
    message: int
    answer: int
    opening: float = 1.0
    spread: float = 1.0
    num_applications: int = 20
    turns: float = 3.0
    think_s: float = 30.0
    burstiness: float = 2.0
    max_prompt: int = 30_000


# Medians of prompt and answer 1020 and 129 (Splitwise, conversation).
CHAT = Profile(instructions=300, message=124, answer=186, opening=1.5)
# 1500 and 13 (Splitwise, coding): one question each, long texts, hardly an answer.
CODE = Profile(instructions=400, message=1100, answer=18, turns=1.0, num_applications=5, spread=0.9)
# Means 7590 and 182, and half of all prompt tokens seen before (Mooncake).
LONG = Profile(instructions=800, message=800, answer=182, opening=4.7, turns=1.9)
PROFILES = {"chat": CHAT, "code": CODE, "long": LONG}


@dataclass(slots=True)
class Question:
    """One request.

    Attributes:
        parts: what its prompt begins with, each with its length: the application's instructions,
            then what was said before.
        num_prompt: tokens, those of the parts included.
    """

    conversation: int
    turn: int
    application: int
    parts: list[tuple[object, int]]
    num_prompt: int
    num_output: int


@dataclass(slots=True)
class Conversation:
    """Questions one after another; each comes `think_s` after the answer before."""

    starts_at: float
    questions: list[Question] = field(default_factory=list)
    think_s: list[float] = field(default_factory=list)


def draw(
    profile: Profile, per_s: float, seconds: float, seed: int, first: int = 0
) -> Iterator[Conversation]:
    """Draw the conversations that begin within `seconds`, `per_s` of them on average.

    Args:
        first: number of the first conversation: those of one run must differ.
    """
    rng = random.Random(seed)
    weights = [1 / (rank + 1) for rank in range(profile.num_applications)]
    shape = 1 / profile.burstiness**2
    at = 0.0
    number = first
    while (at := at + rng.gammavariate(shape, 1 / (shape * per_s))) < seconds:
        application = rng.choices(range(profile.num_applications), weights)[0]
        yield _draw_one(profile, rng, at, number, application)
        number += 1


def _draw_one(
    profile: Profile, rng: random.Random, at: float, number: int, application: int
) -> Conversation:
    conversation = Conversation(at)
    said = 0
    opening = profile.opening
    while True:
        message = _draw_length(rng, profile.message * opening, profile.spread)
        answer = max(1, math.ceil(rng.expovariate(1 / profile.answer)))
        num_prompt = profile.instructions + said + message
        if num_prompt > profile.max_prompt:
            if conversation.questions:
                return conversation
            num_prompt = profile.max_prompt
        parts: list[tuple[object, int]] = [(("application", application), profile.instructions)]
        if said:
            parts.append((number, said))
        conversation.questions.append(
            Question(number, len(conversation.questions), application, parts, num_prompt, answer)
        )
        conversation.think_s.append(rng.expovariate(1) * profile.think_s)
        said = num_prompt + answer - profile.instructions
        opening = 1.0
        if rng.random() < 1 / profile.turns:
            return conversation


def _draw_length(rng: random.Random, median: float, spread: float) -> int:
    return max(1, round(rng.lognormvariate(math.log(median), spread)))
