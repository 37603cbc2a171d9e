"""Find the tokens that an answer's content is made of, among those of thinking and calls."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmplug.server.deltas import TokenText


@dataclass(frozen=True, slots=True)
class PlacedToken:
    """A token and where its text ends; a part of a character that is not whole has no width."""

    token: TokenText
    end: int


class ContentTokens:
    """Follows a parser through the text that it is fed.

    A parser says what is content, not where that stood, and drops white space and markers in
    silence. So content is looked for right behind what came before it, past white space and
    markers. A token of which any character is content belongs to it.
    """

    def __init__(self, markers: Sequence[str]) -> None:
        longest_first = sorted(set(markers), key=len, reverse=True)
        self._dropped = re.compile("|".join([r"\s", *map(re.escape, longest_first)]))
        self._pieces: list[str] = []  # text that is not placed yet
        self._start = 0  # its offset
        self._fed_at = 0  # offset of the piece that was fed last
        self._end = 0
        self._tokens: deque[PlacedToken] = deque()

    def add(self, text: str, tokens: Sequence[PlacedToken]) -> None:
        """Say what the parser is fed next."""
        self._fed_at = self._end
        self._end += len(text)
        self._pieces.append(text)
        self._tokens.extend(tokens)

    def pass_call(self) -> None:
        """Say that the parser told of a call: what was fed before belongs to it."""
        self._pass_to(self._fed_at)

    def pass_over(self, text: str) -> None:
        """Say that the parser told `text`, and that it is no content."""
        at = self._find(text)
        if at is not None:
            self._pass_to(self._start + at + len(text))

    def take(self, text: str) -> list[TokenText]:
        """Return the tokens of `text`, which the parser told as content."""
        at = self._find(text)
        if at is None:
            return []
        start, end = self._start + at, self._start + at + len(text)
        self._pass_to(start)
        taken = []
        while self._tokens and self._tokens[0].token.offset < end:
            taken.append(self._tokens.popleft().token)
        self._pass_to(end)
        return taken

    def _find(self, text: str) -> int | None:
        """The last place that only white space and markers come before; else the first."""
        whole = "".join(self._pieces)
        self._pieces = [whole]
        found, at = None, 0
        while at + len(text) <= len(whole):
            if whole.startswith(text, at):
                found = at
            dropped = self._dropped.match(whole, at)
            if dropped is None:
                break
            at = dropped.end()
        if found is None:
            at = whole.find(text)
            found = at if at >= 0 else None
        return found

    def _pass_to(self, offset: int) -> None:
        """Forget the text before `offset`, and the tokens that end there."""
        if offset > self._start:
            self._pieces = ["".join(self._pieces)[offset - self._start :]]
            self._start = offset
        while self._tokens and max(self._tokens[0].end, self._tokens[0].token.offset + 1) <= offset:
            self._tokens.popleft()
