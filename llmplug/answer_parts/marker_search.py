"""Find markers in text that comes in pieces."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

import msgspec


class Found(msgspec.Struct, frozen=True):
    """What a piece of text holds.

    Attributes:
        at: characters before the marker; without a marker those that belong to none for certain.
        marker: the first one in the text, the longest of those at its place; "": none yet.
    """

    at: int
    marker: str


_BEGUN = Found(0, "")


class MarkerSearch:
    """Looks for a few markers, of which some may be the beginning of others.

    Whoever uses it keeps the text from `Found.at` on where there is no marker yet, and puts what
    comes next behind it: less than the longest marker's length is ever kept.
    """

    def __init__(self, markers: Iterable[str]) -> None:
        self.markers = tuple(sorted({each for each in markers if each}, key=len, reverse=True))
        self._pattern = re.compile("|".join(map(re.escape, self.markers)) or r"(?!)")
        self._beginnings = frozenset(each[:n] for each in self.markers for n in range(1, len(each)))
        self._begun = re.compile("|".join(map(_begun, self.markers)) or r"(?!)")
        self._firsts = frozenset(each[0] for each in self.markers)
        self._most = max(map(len, self.markers), default=1) - 1

    def find(self, text: str, *, is_whole: bool = False) -> Found:
        """Look into `text`; `is_whole`: nothing follows it, so no beginning becomes a marker."""
        if self._firsts.isdisjoint(text):
            return Found(len(text), "")
        if text in self._beginnings and not is_whole:
            return _BEGUN
        match = self._pattern.search(text)
        at = len(text) if match is None else match.start()
        if not is_whole:
            # A marker that has only begun may stand before the one found, or go on past it.
            begun = self._begun.search(text, max(0, len(text) - self._most))
            if begun is not None and begun.start() <= at:
                return Found(begun.start(), "")
        return Found(at, "" if match is None else match.group())

    def begins(self, text: str, *, is_whole: bool = False) -> str | None:
        """The marker that `text` begins with; "": it may come yet; None: there is none."""
        if not is_whole and len(text) <= self._most and text in self._beginnings:
            return ""
        match = self._pattern.match(text)
        return match.group() if match is not None else None


def _begun(marker: str) -> str:
    """A pattern of texts that end within a marker."""
    pattern = r"\Z"
    for char in reversed(marker[:-1]):
        pattern = rf"{re.escape(char)}(?:\Z|{pattern})"
    return pattern


@lru_cache(maxsize=1024)
def search_for(*markers: str) -> MarkerSearch:
    """Return the search for some markers; it holds no state, so equal ones are one."""
    return MarkerSearch(markers)
