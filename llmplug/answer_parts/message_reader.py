"""What parsers of answers that are a row of messages share: `<header><|message|>text<|end|>`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from llmplug.dialect import Content, Reasoning

if TYPE_CHECKING:
    from llmplug.answer_parts.marker_search import MarkerSearch
    from llmplug.dialect import Event

_NONE: frozenset[str] = frozenset()
_MOST_AT_ONCE = 4096  # characters: each marker costs a copy of what stands behind it


class MessageReader:
    """Reads an answer by states; see `llmplug.dialect.Parser`.

    A state is a method that takes text, never empty, and returns what it leaves to the next; it
    keeps with `_hold` what it cannot tell yet, and gets that again with more behind it. A text
    begins with `_open_text` and goes up to one of the end markers; white space at its ends is
    nobody's.

    Args:
        ends: markers that end a text.
        state: the first, for what stands between texts.
    """

    def __init__(self, ends: MarkerSearch, state: Callable[[str], str]) -> None:
        self._ends = ends
        self._state = state
        self._events: list[Event] = []
        self._held = ""
        self._beginnings = _NONE  # of markers, one of which what is held may become
        self._kind: type[Content | Reasoning] = Content
        self._flows = False  # text has come out and goes on, with no space kept back
        self._space: list[str] = []  # what a marker may follow
        self._drops_space = True  # a marker stood right before

    def feed(self, text: str) -> list[Event]:
        """Take more text; see `Parser`."""
        is_plain = self._flows and not self._held and self._ends.firsts.isdisjoint(text)
        if is_plain and text and not text[-1].isspace():  # quick: most text is of this kind
            return [self._kind(text)]
        if len(text) > _MOST_AT_ONCE:
            starts = range(0, len(text), _MOST_AT_ONCE)
            return [e for at in starts for e in self.feed(text[at : at + _MOST_AT_ONCE])]
        left = self._held + text
        if left in self._beginnings:  # quick: most characters of markers end here
            self._held = left
            return []
        self._held = ""
        while left:
            left = self._state(left)
        events, self._events = self._events, []
        return events

    def _hold(self, text: str, beginnings: frozenset[str] = _NONE) -> str:
        """Keep what cannot be told yet; the state is not asked while it is one of `beginnings`."""
        self._held, self._beginnings = text, beginnings
        return ""

    def _open_text(self, *, is_reasoning: bool, is_begun: bool = False) -> None:
        """A text begins; `is_begun`: some of it stands in the prompt."""
        self._kind = Reasoning if is_reasoning else Content
        self._flows = False
        self._space = []
        self._drops_space = not is_begun
        self._state = self._read_text

    def _read_text(self, text: str) -> str:
        """Within a text, in which nothing but its end means anything."""
        if self._ends.firsts.isdisjoint(text):  # quick: most characters end here
            self._say(text)
            return ""
        found = self._ends.find(text)
        if found.at:
            self._say(text[: found.at])
        if not found.marker:
            return self._hold(text[found.at :], self._ends.beginnings)
        self._space, self._flows, self._beginnings = [], False, _NONE
        return self._end_text(found.marker, text[found.at + len(found.marker) :])

    def _end_text(self, marker: str, text: str) -> str:
        """A marker has ended a text: set the state, and return what is left."""
        raise NotImplementedError

    def _say(self, text: str) -> None:
        """Let text out but for white space beside markers."""
        if self._drops_space:
            text = text.lstrip()
        body = text.rstrip()
        if body:
            self._drops_space = False
            said = "".join([*self._space, body]) if self._space else body
            self._events.append(self._kind(said))
            self._space = []
        if len(body) < len(text):
            self._space.append(text[len(body) :])
        self._flows = not self._space and not self._drops_space

    def _emit(self, text: str) -> None:
        if text:
            self._events.append(self._kind(text))

    def _take(self) -> list[Event]:
        events, self._events = self._events, []
        return events
