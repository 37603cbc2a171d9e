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

    Attributes:
        beginnings: texts that may become a marker. `find` holds such a text back whole.
        firsts: characters that a marker begins with. Text without any holds no marker.
    """

    def __init__(self, markers: Iterable[str]) -> None:
        self.markers = tuple(sorted({each for each in markers if each}, key=len, reverse=True))
        self.beginnings = frozenset(each[:n] for each in self.markers for n in range(1, len(each)))
        whole = "|".join(map(re.escape, self.markers)) or r"(?!)"
        begun = "|".join(map(_begun, self.markers)) or r"(?!)"
        self._pattern = re.compile(whole)
        # One that has only begun comes first: it may stand at the place of another, and go past it.
        self._begun_or_whole = re.compile(f"(?P<begun>{begun})|{whole}")
        self.firsts = frozenset(each[0] for each in self.markers)
        self._chars = frozenset(char for each in self.markers for char in each)
        self._most = max(map(len, self.markers), default=1) - 1
        # What is found in a beginning and one character of a marker. There are few of those, and
        # text that comes one character at a time leads to nothing else.
        self._known = dict.fromkeys(self.beginnings, _BEGUN)
        self._begun = self.beginnings | {""}
        self._clear = frozenset(each for each in self._begun if not self._pattern.search(each))

    def find(self, text: str, *, is_whole: bool = False) -> Found:
        """Look into `text`; `is_whole`: nothing follows it, so no beginning becomes a marker."""
        if is_whole:
            return self._look(text)
        if len(text) <= self._most + 1:
            known = self._known.get(text)
            if known is not None:
                return known
            if text[-1:] not in self._chars and text[:-1] in self._clear:
                return Found(len(text), "")  # quick: what had begun goes on otherwise
        if self.firsts.isdisjoint(text):
            return Found(len(text), "")
        return self._find_begun(text)

    def begins(self, text: str, *, is_whole: bool = False) -> str | None:
        """The marker that `text` begins with; "": it may come yet; None: there is none."""
        if not is_whole and len(text) <= self._most and text in self.beginnings:
            return ""
        match = self._pattern.match(text)
        return match.group() if match is not None else None

    def _look(self, text: str) -> Found:
        match = self._pattern.search(text)
        return Found(len(text), "") if match is None else Found(match.start(), match.group())

    def _find_begun(self, text: str) -> Found:
        """Find a marker that does not go on past the text, or one that has only begun."""
        match = self._begun_or_whole.search(text)
        if match is None:
            found = Found(len(text), "")
        else:
            found = Found(match.start(), "" if match.lastgroup else match.group())
        if text[-1] in self._chars and text[:-1] in self._begun:
            self._known[text] = found
        return found


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
