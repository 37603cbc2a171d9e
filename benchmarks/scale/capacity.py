"""Arithmetic: what a server can bear, and how many of them so many users need.

A request takes a server's time for the tokens of its prompt that are not cached, for its place in
each step of its answer, and for its share of what a step costs however little it holds. The more
sequences share a step, the smaller that share, and the slower each of them is written.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.scale.speed import Speed
    from benchmarks.scale.traffic import Question

# Of what a server can do, what is asked of it on average: bursts need the rest.
BUSY = 0.7
TOKEN_S = 0.1  # a token of an answer may take so long: about twice as fast as people read


@dataclass(frozen=True, slots=True)
class Demand:
    """Means of requests.

    Attributes:
        prompt, output: tokens.
        new: of the prompt, those that are not cached.
        reads: cached tokens that all steps of an answer look at.
        pairs: of tokens, in attention of the new part.
    """

    prompt: float
    output: float
    new: float
    reads: float
    pairs: float

    @classmethod
    def of(cls, questions: Sequence[Question], cached_share: float) -> Demand:
        """Take the means of some questions, of each of which a share is cached."""
        count = len(questions)
        new = [one.num_prompt * (1 - cached_share) for one in questions]
        pairs = [
            part * (one.num_prompt - part / 2) for part, one in zip(new, questions, strict=True)
        ]
        return cls(
            prompt=sum(one.num_prompt for one in questions) / count,
            output=sum(one.num_output for one in questions) / count,
            new=sum(new) / count,
            reads=sum(one.num_output * (one.num_prompt + one.num_output / 2) for one in questions)
            / count,
            pairs=sum(pairs) / count,
        )


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one server bears.

    Attributes:
        sequences: that run at once, at most.
        per_s: requests, at most.
        token_s: what a token of an answer takes then.
    """

    sequences: int
    per_s: float
    token_s: float


def own_cost_s(speed: Speed, demand: Demand) -> float:
    """Return the seconds that a request takes, whatever others do."""
    return (
        speed.token * (demand.new + demand.output)
        + speed.sampled * demand.output
        + speed.read * demand.reads
        + speed.pair * demand.pairs
    )


def find_capacity(
    speed: Speed, demand: Demand, max_sequences: int, token_s: float = math.inf
) -> Capacity:
    """Return what a server bears with as many sequences as fit.

    Into the scheduler, into the cache, and into `token_s` for each token, where one alone does.
    """
    fitting = min(max_sequences, speed.cache_tokens / (demand.prompt + demand.output))
    own_s = own_cost_s(speed, demand)
    if token_s < math.inf:
        fitting = min(fitting, (token_s - speed.step) * demand.output / own_s)
    sequences = max(1, int(fitting))
    cost_s = speed.step * demand.output / sequences + own_s
    return Capacity(sequences, 1 / cost_s, cost_s * sequences / demand.output)


def servers_for(users: float, think_s: float, capacity: Capacity, demand: Demand) -> int:
    """Return how many servers bear users who ask, read and think, one thing after another."""
    answer_s = capacity.token_s * demand.output
    return math.ceil(users / (think_s + answer_s) / (BUSY * capacity.per_s))
