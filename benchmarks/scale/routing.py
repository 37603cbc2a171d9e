"""Which server a request is sent to."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Protocol

import numpy as np

from benchmarks.scale.prefixes import Prefixes
from llmplug.server.replicas.routing import Candidate, choose_route

if TYPE_CHECKING:
    from benchmarks.scale.prefixes import Key
    from benchmarks.scale.traffic import Question

PAGE = 16  # tokens: cache.page_size


class Router(Protocol):
    """Chooses one of the servers that are open."""

    def choose(self, question: Question, loads: np.ndarray) -> int:
        """Return the place of a server in `loads`, whose load is not infinite."""


class Random:
    """Anyone: what a Kubernetes Service does."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def choose(self, question: Question, loads: np.ndarray) -> int:
        """Throw a die."""
        return int(self._rng.choice(np.flatnonzero(np.isfinite(loads))))


class RoundRobin:
    """One after another."""

    def __init__(self) -> None:
        self._last = -1

    def choose(self, question: Question, loads: np.ndarray) -> int:
        """Return the next one."""
        places = np.flatnonzero(np.isfinite(loads))
        self._last = int(places[np.searchsorted(places, self._last + 1) % len(places)])
        return self._last


class LeastLoaded:
    """The one with the least work."""

    def choose(self, question: Question, loads: np.ndarray) -> int:
        """Look at all of them."""
        return int(loads.argmin())


class TwoChoices:
    """The better of two that a die picks: nearly as good, without looking at all of them.

    Source: Mitzenmacher, The power of two choices in randomized load balancing, 2001.
    """

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def choose(self, question: Question, loads: np.ndarray) -> int:
        """Throw two dice."""
        places = np.flatnonzero(np.isfinite(loads))
        one, other = (int(self._rng.choice(places)) for _ in range(2))
        return one if loads[one] <= loads[other] else other


class PrefixAffine:
    """Our own rule, `llmplug.server.replicas.routing`: prefixes first, balance where it must be.

    As there, what is cached where is not asked but remembered, from where requests were sent. A
    table of each server forgets as the server's cache does.

    Args:
        num_servers: at most.
        cache_tokens: that a server's cache holds.
        others: who chooses where no prefix does.
    """

    def __init__(self, num_servers: int, cache_tokens: int, others: Router) -> None:
        self._cache_tokens = cache_tokens
        self._others = others
        self._tables = [Prefixes(cache_tokens) for _ in range(num_servers)]
        self._places: dict[Key, set[int]] = {}  # also of some that have forgotten it

    def choose(self, question: Question, loads: np.ndarray) -> int:
        """Ask the rule about those that can win: the least loaded of each length of a match."""
        candidates = [self._describe(self._others.choose(question, loads), 0, loads)]
        known = 0
        for key, length in question.parts:
            known += length
            holders = [one for one in self._find(key) if math.isfinite(loads[one])]
            if not holders:
                break
            best = min(holders, key=lambda one: (loads[one], one))
            candidates.append(self._describe(best, known, loads))
        place = choose_route(candidates, question.num_prompt // PAGE).number
        self._remember(question, place)
        return place

    def _describe(self, place: int, num_known: int, loads: np.ndarray) -> Candidate:
        return Candidate(place, int(loads[place]), num_known // PAGE, 0, 0, self._cache_tokens)

    def _find(self, key: Key) -> list[int]:
        places = self._places.get(key, set())
        places -= {place for place in places if key not in self._tables[place]}
        return sorted(places)

    def _remember(self, question: Question, place: int) -> None:
        parts = dict(question.parts)
        first = question.parts[0][1]
        parts[question.conversation] = question.num_prompt - first
        for key, length in parts.items():
            self._tables[place].hold(key, length)
            self._places.setdefault(key, set()).add(place)


ROUTERS = ("random", "round robin", "two choices", "least loaded", "prefix affine")
# Prefixes first, as ours; of two that a die picks, where ours looks for the least loaded of all.
CAREFUL = "prefix, two choices"


def make_router(name: str, seed: int, num_servers: int, cache_tokens: int) -> Router:
    """Make one of ROUTERS, or CAREFUL, for so many servers at most."""
    match name:
        case "random":
            return Random(seed)
        case "round robin":
            return RoundRobin()
        case "two choices":
            return TwoChoices(seed)
        case "least loaded":
            return LeastLoaded()
        case "prefix affine":
            return PrefixAffine(num_servers, cache_tokens, LeastLoaded())
        case "prefix, two choices":
            return PrefixAffine(num_servers, cache_tokens, TwoChoices(seed))
    raise ValueError(f"{name!r} is none of {ROUTERS}")
