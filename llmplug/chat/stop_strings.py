"""Find stop strings in a text that arrives in pieces."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import NamedTuple


class StopResult(NamedTuple):
    """Text that may be sent, and the stop string that was found in it, if one was."""

    text: str
    matched: str | None


class StopStrings:
    """Cuts a text where the first stop string is complete; how the text was split is no matter.

    Only what could still become a stop string is held back. Of two stop strings that are complete
    at the same character the longer one wins. Linear in the text, by one automaton per string.
    """

    def __init__(self, stop: Sequence[str], include_in_output: bool = False) -> None:
        """Watch for `stop`; empty strings match nothing.

        Args:
            stop: the strings.
            include_in_output: whether the text ends after the stop string or before it.
        """
        longest_first = sorted({text for text in stop if text}, key=len, reverse=True)
        self._borders = [(text, find_borders(text)) for text in longest_first]
        self._include = include_in_output
        self._start()

    def copy(self) -> StopStrings:
        """Watch another text for the same strings: what is known of them is shared."""
        other = copy(self)
        other._start()
        return other

    def _start(self) -> None:
        self._automata = [_Automaton(text, borders) for text, borders in self._borders]
        self._held = ""

    def feed(self, text: str) -> StopResult:
        """Add text; after a match nothing more may be fed."""
        if not self._automata:
            return StopResult(text, None)
        whole = self._held + text
        for end, character in enumerate(text, start=len(self._held) + 1):
            for automaton in self._automata:
                if automaton.step(character):
                    self._held = ""
                    start = end - len(automaton.text)
                    return StopResult(whole[: end if self._include else start], automaton.text)
        held_from = len(whole) - max(automaton.num_matched for automaton in self._automata)
        self._held = whole[held_from:]
        return StopResult(whole[:held_from], None)

    def finish(self) -> str:
        """Return what was held back: the text ended before it became a stop string."""
        held, self._held = self._held, ""
        return held


def find_borders(text: str) -> list[int]:
    """Return, for each prefix of a text by length, the length of its longest border."""
    borders = [0] * (len(text) + 1)
    border = 0
    for end in range(1, len(text)):
        while border and text[end] != text[border]:
            border = borders[border]
        border += text[end] == text[border]
        borders[end + 1] = border
    return borders


class _Automaton:
    """Knuth-Morris-Pratt: how much of one string the text ends with, a character at a time."""

    def __init__(self, text: str, borders: Sequence[int]) -> None:
        self.text = text
        self.num_matched = 0
        self._borders = borders

    def step(self, character: str) -> bool:
        """Read a character; whether the string is complete with it."""
        matched = self.num_matched
        while matched and self.text[matched] != character:
            matched = self._borders[matched]
        self.num_matched = matched + (self.text[matched] == character)
        return self.num_matched == len(self.text)
