"""Pages of the KV cache: who uses them, and which prefix the unused ones still hold.

A page that is full is known by the digest of all tokens up to its end: a hash chain, 128 bits a
page, that starts at the request's salt, so that only equal salts share. A page that nobody uses
keeps its contents until it is needed: the least recently used goes first. Everything is O(1) a
page, in flat arrays; the digests are the only objects.
"""

from __future__ import annotations

from array import array
from collections import Counter
from hashlib import blake2b
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

DIGEST_BYTES = 16


def extend_digests(
    digests: list[bytes], token_ids: Sequence[int], page_size: int, salt: str
) -> None:
    """Bring a chain up to the last full page of `token_ids`."""
    last = digests[-1] if digests else blake2b(salt.encode(), digest_size=DIGEST_BYTES).digest()
    for start in range(len(digests) * page_size, len(token_ids) - page_size + 1, page_size):
        page = array("q", token_ids[start : start + page_size]).tobytes()
        last = blake2b(last + page, digest_size=DIGEST_BYTES).digest()
        digests.append(last)


class BlockPool:
    """Hands out pages, counts their users, and finds pages by the prefix they hold."""

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.num_pages = num_pages
        self.page_size = page_size
        self.num_free = num_pages  # pages that nobody uses, whatever they still hold
        self._num_users = array("i", [0]) * num_pages
        self._digests: list[bytes | None] = [None] * num_pages
        self._page_of: dict[bytes, int] = {}
        # The free pages as a ring, next to be handed out first; `num_pages` is its head.
        self._next = array("i", [*range(1, num_pages + 1), 0])
        self._previous = array("i", [num_pages, *range(num_pages)])

    @property
    def num_used(self) -> int:
        """Pages that sequences hold."""
        return self.num_pages - self.num_free

    def allocate(self, count: int) -> list[int]:
        """Hand out pages, each with one user; what they held is forgotten.

        Raises:
            ValueError: fewer than `count` pages are free.
        """
        if count > self.num_free:
            raise ValueError(f"{count} pages are asked for, {self.num_free} are free")
        pages = []
        for _ in range(count):
            page = self._next[self.num_pages]
            self._unlink(page)
            self._forget(page)
            self._num_users[page] = 1
            pages.append(page)
        return pages

    def free(self, pages: Sequence[int]) -> None:
        """Take one user from each page.

        The end of a prefix is forgotten before its start, as a start alone can still be used.
        """
        for page in reversed(pages):
            self._num_users[page] -= 1
            if self._num_users[page] == 0:
                self._link(page)

    def match(self, digests: Iterable[bytes]) -> list[int]:
        """Find the pages of the longest known prefix; nobody becomes their user yet."""
        pages = []
        for digest in digests:
            page = self._page_of.get(digest)
            if page is None:
                break
            pages.append(page)
        return pages

    def count_free(self, pages: Iterable[int]) -> int:
        """Count those of `pages` that nobody uses."""
        return sum(self._num_users[page] == 0 for page in pages)

    def find_freed(self, holders: Iterable[Sequence[int]]) -> set[int]:
        """Return the pages that nobody would use if these holders gave theirs back."""
        counts = Counter(chain.from_iterable(holders))
        return {page for page, count in counts.items() if count == self._num_users[page]}

    def share(self, pages: Iterable[int]) -> None:
        """Add one user to each page."""
        for page in pages:
            if self._num_users[page] == 0:
                self._unlink(page)
            self._num_users[page] += 1

    def publish(self, page: int, digest: bytes) -> None:
        """Make a full page known by its digest; the first page of a digest keeps it."""
        if digest not in self._page_of and self._digests[page] is None:
            self._page_of[digest] = page
            self._digests[page] = digest

    def _forget(self, page: int) -> None:
        digest = self._digests[page]
        if digest is not None:
            del self._page_of[digest]
            self._digests[page] = None

    def _link(self, page: int) -> None:
        """Put a page among the free ones: last if it holds a known prefix, else first."""
        head = self.num_pages
        after = head if self._digests[page] is None else self._previous[head]
        before = self._next[after]
        self._next[after] = self._previous[before] = page
        self._previous[page], self._next[page] = after, before
        self.num_free += 1

    def _unlink(self, page: int) -> None:
        before, after = self._previous[page], self._next[page]
        self._next[before] = after
        self._previous[after] = before
        self.num_free -= 1
