"""What one engine has probably kept in its prefix cache, seen from outside.

The digests are the engine's own: a chain over whole pages that starts at the request's salt
(`engine/block_pool.py`), so that prompts of different salts never look alike here either. The table
is a guess: what the engine wrote itself is not in it, and what it has thrown away may be.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class PrefixTable:
    """Digests of pages, the least recently used forgotten first; O(1) a page.

    Args:
        max_pages: that are remembered: as many as the engine's cache has.
    """

    def __init__(self, max_pages: int) -> None:
        self._max_pages = max_pages
        self._digests: OrderedDict[bytes, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._digests)

    def count_known(self, digests: Sequence[bytes]) -> int:
        """Count the pages of the longest known prefix."""
        for count, digest in enumerate(digests):
            if digest not in self._digests:
                return count
        return len(digests)

    def remember(self, digests: Sequence[bytes]) -> None:
        """Note a prompt that the engine was asked.

        The end of a prefix is forgotten before its start, as in the engine.
        """
        for digest in reversed(digests):
            self._digests[digest] = None
            self._digests.move_to_end(digest)
        while len(self._digests) > self._max_pages:
            self._digests.popitem(last=False)

    def clear(self) -> None:
        """Forget everything: the engine has."""
        self._digests.clear()
