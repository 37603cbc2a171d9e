"""Which replica is asked: the table of what each has seen, and the rule."""

from __future__ import annotations

import random

import pytest

from llmplug.engine.block_pool import extend_digests
from llmplug.server.replicas.prefix_table import PrefixTable
from llmplug.server.replicas.routing import (
    BALANCE_RATIO,
    BALANCE_SHARE,
    MIN_KNOWN_SHARE,
    Candidate,
    Route,
    choose_route,
)

PAGE_SIZE = 4
CACHE_TOKENS = 800
SLACK = int(BALANCE_SHARE * CACHE_TOKENS)


def pages_of(token_ids: list[int], salt: str = "") -> list[bytes]:
    digests: list[bytes] = []
    extend_digests(digests, token_ids, PAGE_SIZE, salt)
    return digests


def candidate(number: int, **changes: int) -> Candidate:
    base = Candidate(
        number, num_tokens=0, num_known=0, num_remembered=0, num_routed=0, cache_tokens=CACHE_TOKENS
    )
    return base._replace(**changes)


def test_a_table_knows_what_beginnings_are_shared_and_nothing_across_salts() -> None:
    """Compared with prompts kept whole and looked through."""
    random.seed(1)
    table, seen = PrefixTable(100_000), list[tuple[list[int], str]]()

    def count_shared(prompt: list[int], salt: str) -> int:
        most = 0
        for other, other_salt in seen if salt in {each for _, each in seen} else []:
            num_equal = 0
            while prompt[:num_equal] == other[:num_equal] and num_equal <= len(prompt):
                num_equal += PAGE_SIZE
            most = max(most, num_equal // PAGE_SIZE - 1 if salt == other_salt else 0)
        return min(most, len(prompt) // PAGE_SIZE)

    num_hits = 0
    for _ in range(300):
        length = random.randrange(30)
        prompt, salt = [random.randrange(2) for _ in range(length)], random.choice(["", "a"])
        expected = count_shared(prompt, salt)
        assert table.count_known(pages_of(prompt, salt)) == expected
        table.remember(pages_of(prompt, salt))
        seen.append((prompt, salt))
        num_hits += expected > 0
    assert num_hits > 100


def test_a_table_is_bounded_and_forgets_what_was_used_longest_ago() -> None:
    table = PrefixTable(6)
    first, second = pages_of([1] * 12), pages_of([2] * 12)
    table.remember(first)
    table.remember(second)
    assert (table.count_known(first), table.count_known(second)) == (3, 3)
    table.remember(first)  # used again
    table.remember(pages_of([3] * 8))
    assert len(table) == 6
    assert table.count_known(first) == 3
    assert table.count_known(second) == 1  # its end went before its start
    table.remember(pages_of([4] * 400))
    assert len(table) == 6


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        # Nobody knows the beginning: the least loaded, then who remembers least, then in turn.
        ({"num_tokens": 5}, {}, (1, "load")),
        ({"num_remembered": 3}, {"num_remembered": 2}, (1, "load")),
        ({"num_routed": 7}, {"num_routed": 6}, (1, "load")),
        # The longest known beginning, though the other is less loaded.
        ({"num_known": 9, "num_tokens": SLACK}, {}, (0, "prefix")),
        ({"num_known": 9, "num_tokens": SLACK}, {"num_known": 8}, (0, "prefix")),
        # As long with both: the less loaded.
        ({"num_known": 9, "num_tokens": 1}, {"num_known": 9}, (1, "prefix")),
        # Overloaded: more by the share of its cache, and by the ratio.
        ({"num_known": 9, "num_tokens": SLACK + 1}, {}, (1, "load")),
        ({"num_known": 9, "num_tokens": 1200}, {"num_tokens": 800}, (0, "prefix")),
        ({"num_known": 9, "num_tokens": 1201}, {"num_tokens": 800}, (1, "load")),
        # Too short a beginning to be worth anything.
        ({"num_known": 4}, {"num_remembered": -1}, (1, "load")),
        ({"num_known": 5}, {"num_remembered": -1}, (0, "prefix")),
    ],
)
def test_the_rule(first: dict[str, int], second: dict[str, int], expected: tuple[int, str]) -> None:
    assert (BALANCE_RATIO, MIN_KNOWN_SHARE) == (1.5, 0.25)  # what the numbers above are made for
    candidates = [candidate(0, **first), candidate(1, **second)]
    assert choose_route(candidates, 20) == expected
    swapped = choose_route(candidates[::-1], 20)
    assert swapped == expected  # their order says nothing


def test_prompts_that_begin_alike_gather_until_that_is_too_many() -> None:
    """A crowd with one system prompt fills both replicas, and neither is far behind."""
    loads = [0, 0]
    tables = [PrefixTable(1000), PrefixTable(1000)]
    for number in range(100):
        prompt = pages_of([7] * 40 + [number] * 8)
        candidates = [
            candidate(i, num_tokens=loads[i], num_known=tables[i].count_known(prompt))
            for i in range(2)
        ]
        route: Route = choose_route(candidates, len(prompt))
        loads[route.number] += 48
        tables[route.number].remember(prompt)
        if number == 1:
            assert sorted(loads) == [0, 96]
    assert abs(loads[0] - loads[1]) <= SLACK + 48
