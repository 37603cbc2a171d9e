"""Which replica a request is sent to.

1. The one that knows the longest beginning of the prompt, where that is worth having: at least
   MIN_KNOWN_SHARE of it. Among equals, the least loaded.
2. Not if that one is overloaded: it holds more than BALANCE_RATIO times the tokens of the least
   loaded, and at least BALANCE_SHARE of its cache more. Both, as a ratio alone means nothing among
   few requests, and a difference nothing among many.
3. Else the least loaded: fewest tokens of open requests, waiting and running; of those that are
   idle, the one that remembers least, so that caches fill alike.

A share as small as MIN_KNOWN_SHARE keeps a conversation where it is when a long text is added to
it, and lets a short beginning that all prompts have, such as a system prompt, be computed once by
each replica instead of gathering everybody at one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

MIN_KNOWN_SHARE = 0.25  # of a prompt's whole pages
BALANCE_RATIO = 1.5
BALANCE_SHARE = 0.125  # of what a replica's cache holds
# Of a prompt, the beginning that is looked at: hashing costs about a microsecond a page.
MAX_PAGES = 2048


# Why a request came where it is: see above; `moved`: from an engine that died.
Reason = Literal["prefix", "load", "moved"]
REASONS: tuple[Reason, ...] = get_args(Reason)


class Candidate(NamedTuple):
    """A replica that could be asked."""

    number: int
    num_tokens: int  # of its open requests
    num_known: int  # pages of the prompt that it probably has
    num_remembered: int  # pages of all prompts
    num_routed: int  # requests so far
    cache_tokens: int  # that its cache holds


class Route(NamedTuple):
    """Who is asked, and why."""

    number: int
    reason: Reason


def choose_route(candidates: Sequence[Candidate], num_pages: int) -> Route:
    """Choose one of the candidates, of which there is at least one.

    Args:
        num_pages: of the prompt, or of what is looked at of it; 0: prefixes do not matter.
    """
    least = min(candidates, key=_weigh)
    longest = max(each.num_known for each in candidates)
    if not longest or longest < MIN_KNOWN_SHARE * num_pages:
        return Route(least.number, "load")
    best = min((each for each in candidates if each.num_known == longest), key=_weigh)
    if _is_overloaded(best, least):
        return Route(least.number, "load")
    return Route(best.number, "prefix")


def _weigh(candidate: Candidate) -> tuple[int, int, int]:
    return candidate.num_tokens, candidate.num_remembered, candidate.num_routed


def _is_overloaded(candidate: Candidate, least: Candidate) -> bool:
    surplus = candidate.num_tokens - least.num_tokens
    return (
        candidate.num_tokens > BALANCE_RATIO * least.num_tokens
        and surplus > BALANCE_SHARE * candidate.cache_tokens
    )
