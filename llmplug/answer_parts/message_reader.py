"""What parsers of answers that are a row of messages share: `<header><|message|>text<|end|>`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from llmplug.dialect import Content, Reasoning

if TYPE_CHECKING:
    from llmplug.answer_parts.marker_search import MarkerSearch
    from llmplug.dialect import Event

_MOST_AT_ONCE = 4096  # characters: each marker costs a copy of what stands behind it


class MessageReader:
    """Reads an answer by states; see `llmplug.dialect.Parser`.

    A state is a method that takes text, never empty, and returns what it leaves to the next; it
    keeps in `_held` what it cannot tell yet. A text begins with `_open_text` and goes up to one of
    the end markers; white space at its ends is nobody's.

    Args:
        ends: markers that end a text.
        state: the first, for what stands between texts.
    """

    def __init__(self, ends: MarkerSearch, state: Callable[[str], str]) -> None:
        self._ends = ends
        self._state = state
        self._events: list[Event] = []
        self._held = ""
        self._is_reasoning = False
        self._space: str | None = None  # what a marker may follow; None: one stood right before

    def feed(self, text: str) -> list[Event]:
        """Take more text; see `Parser`."""
        for start in range(0, len(text), _MOST_AT_ONCE):
            left = self._held + text[start : start + _MOST_AT_ONCE]
            self._held = ""
            while left:
                left = self._state(left)
        return self._take()

    def _open_text(self, *, is_reasoning: bool, is_begun: bool = False) -> None:
        """A text begins; `is_begun`: some of it stands in the prompt."""
        self._is_reasoning = is_reasoning
        self._space = "" if is_begun else None
        self._state = self._read_text

    def _read_text(self, text: str) -> str:
        """Within a text, in which nothing but its end means anything."""
        found = self._ends.find(text)
        self._say(text[: found.at])
        if not found.marker:
            self._held = text[found.at :]
            return ""
        self._space = None
        return self._end_text(found.marker, text[found.at + len(found.marker) :])

    def _end_text(self, marker: str, text: str) -> str:
        """A marker has ended a text: set the state, and return what is left."""
        raise NotImplementedError

    def _say(self, text: str) -> None:
        """Let text out but for white space beside markers."""
        text = text.lstrip() if self._space is None else self._space + text
        body = text.rstrip()
        if body:
            self._emit(body)
        if body or self._space is not None:
            self._space = text[len(body) :]

    def _emit(self, text: str) -> None:
        if text:
            self._events.append(Reasoning(text) if self._is_reasoning else Content(text))

    def _take(self) -> list[Event]:
        events, self._events = self._events, []
        return events
