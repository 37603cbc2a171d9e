"""The page pool against a plain model of it: sets, and a list of who is used least recently."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llmplug.engine.block_pool import BlockPool, extend_digests

NUM_PAGES = 7


class PoolMachine(RuleBasedStateMachine):
    """Holders take, share, publish and return pages in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(NUM_PAGES, 4)
        self.holders: list[list[int]] = []
        self.page_of: dict[bytes, int] = {}
        self.cached: list[int] = []  # free pages with a digest, the first to go first
        self.num_digests = 0

    def users(self, page: int) -> int:
        return sum(page in pages for pages in self.holders)

    @rule(count=st.integers(0, NUM_PAGES + 1))
    def allocate(self, count: int) -> None:
        blank = [p for p in range(NUM_PAGES) if not self.users(p) and p not in self.cached]
        if count > len(blank) + len(self.cached):
            with pytest.raises(ValueError, match="are free"):
                self.pool.allocate(count)
            return
        pages = self.pool.allocate(count)
        evicted = max(0, count - len(blank))
        assert set(pages) <= set(blank) | set(self.cached[:evicted])
        for page in self.cached[:evicted]:
            del self.page_of[next(d for d, p in self.page_of.items() if p == page)]
        del self.cached[:evicted]
        self.holders.append(pages)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def free(self, data) -> None:
        pages = self.holders.pop(data.draw(st.integers(0, len(self.holders) - 1)))
        self.pool.free(pages)
        for page in reversed(pages):
            if not self.users(page) and page in self.page_of.values():
                self.cached.append(page)

    @precondition(lambda self: any(self.holders))
    @rule(data=st.data())
    def publish(self, data) -> None:
        page = data.draw(st.sampled_from([p for pages in self.holders for p in pages]))
        self.num_digests += 1
        is_copy = data.draw(st.booleans()) and self.page_of
        digest = next(iter(self.page_of)) if is_copy else b"%d" % self.num_digests
        self.pool.publish(page, digest)
        if page not in self.page_of.values():
            self.page_of.setdefault(digest, page)

    @rule(data=st.data())
    def share(self, data) -> None:
        digests = data.draw(st.lists(st.sampled_from([*self.page_of, b"unknown"]), unique=True))
        expected = []
        for digest in digests:
            if digest not in self.page_of:
                break
            expected.append(self.page_of[digest])
        pages = self.pool.match(digests)
        assert pages == expected
        assert self.pool.count_free(pages) == sum(p in self.cached for p in pages)
        self.pool.share(pages)
        self.cached = [p for p in self.cached if p not in pages]
        self.holders.append(pages)

    @invariant()
    def counts_agree(self) -> None:
        used = {page for pages in self.holders for page in pages}
        assert self.pool.num_used == len(used)
        assert self.pool.num_free == NUM_PAGES - len(used)


PoolMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
test_pool = PoolMachine.TestCase


def test_the_end_of_a_prefix_goes_before_its_start() -> None:
    pool = BlockPool(3, 4)
    pages = pool.allocate(3)
    digests = [b"a", b"b", b"c"]
    for page, digest in zip(pages, digests, strict=True):
        pool.publish(page, digest)
    pool.free(pages)
    pool.allocate(1)
    assert pool.match(digests) == pages[:2]


def test_memory_that_was_touched_goes_before_new_and_new_before_a_known_prefix() -> None:
    pool = BlockPool(6, 4)
    first = pool.allocate(4)
    pool.publish(first[0], b"known")
    pool.free(first)
    worthless, (known,) = first[1:], first[:1]
    assert pool.allocate(3) == worthless
    never_used = pool.allocate(2)
    assert not set(never_used) & set(first)
    assert pool.match([b"known"]) == [known]
    pool.free(never_used[:1])
    assert pool.allocate(1) == never_used[:1]
    assert pool.allocate(1) == [known]
    assert pool.match([b"known"]) == []


def test_pages_that_would_be_freed_are_those_of_nobody_else() -> None:
    pool = BlockPool(8, 4)
    shared, alone, other = pool.allocate(2), pool.allocate(2), pool.allocate(1)
    pool.share(shared)
    pool.share(shared[:1])
    holders = [[*shared, *alone], [*shared, *other]]
    assert pool.find_freed(holders) == {shared[1], *alone, *other}
    assert pool.find_freed(holders[:1]) == set(alone)
    assert pool.find_freed([]) == set()


def test_digests_are_of_all_tokens_before_and_of_the_salt() -> None:
    def digests(token_ids, salt=""):
        found: list[bytes] = []
        extend_digests(found, token_ids, 4, salt)
        return found

    tokens = list(range(14))
    assert len(digests(tokens)) == 3
    assert digests(tokens)[:2] == digests(tokens[:8])
    assert not set(digests(tokens)) & set(digests(tokens, "salt"))
    assert not set(digests(tokens)) & set(digests([99, *tokens[1:]]))
    grown = digests(tokens[:5])
    extend_digests(grown, tokens, 4, "")
    assert grown == digests(tokens)
    assert {len(digest) for digest in digests([2**40, -1, 0, 1])} == {16}
