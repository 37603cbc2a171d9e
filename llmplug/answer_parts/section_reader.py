"""What every reader of tool calls keeps to, and what those that go from marker to marker share."""

from __future__ import annotations

from collections.abc import Callable
from json.encoder import encode_basestring
from typing import TYPE_CHECKING

from llmplug.answer_parts.marker_search import search_for
from llmplug.dialect import CallArguments, CallEnd, CallStart, Content

if TYPE_CHECKING:
    from llmplug.answer_parts.marker_search import MarkerSearch
    from llmplug.dialect import Event, Opening

SPACE = " \t\n\r"
_NONE: frozenset[str] = frozenset()


class SectionReader:
    """Reads a section of calls by states; see `llmplug.dialect.CallReader`.

    A state is a method that takes text, never empty, and returns what it leaves to the next. It
    keeps with `_hold` what it cannot tell yet, and gets that back, before more, with `_unhold`.

    Args:
        opening: where the section begins.
        end: marker up to which all is text once something goes wrong; "": it is over there.
        state: the first.
    """

    def __init__(self, opening: Opening, end: str, state: Callable[[str], str]) -> None:
        self.ended_as_text = False
        self.text_until = ""
        self._tools = opening.tools
        self._state = state
        self._end = end
        self._behind_calls = search_for(end)
        self._index = opening.first_index
        self._num_calls = 0
        self._is_in_call = False
        self._is_over = False
        self._events: list[Event] = []
        self._raw = [opening.space + opening.marker]  # of what has no name as yet
        self._held = ""
        self._beginnings = _NONE  # of the markers that the state looks for, with what is held
        self._gathered: list[str] = []
        self._num_gathered = 0  # characters

    def feed(self, text: str) -> tuple[list[Event], str | None]:
        """Take more text; see `CallReader`."""
        begun = self._held + text
        if begun in self._beginnings:  # quick: most characters of markers end here
            self._held = begun
            return [], None
        while text and not self._is_over:
            text = self._state(text)
        events, self._events = self._events, []
        return events, text if self._is_over else None

    def finish(self) -> list[Event]:
        """Say that the answer ends here; see `CallReader`."""
        if self._is_in_call:
            self._finish_call()
        left = "".join([*self._raw, *self._gathered, self._held])
        self._say(left.strip(SPACE) if self._num_calls else left)
        return self._events

    def _finish_call(self) -> None:
        """The answer ends within a call: let out what is known of it, and end it."""
        self._end_call(is_complete=False)

    # --- calls ----------------------------------------------------------------------------------
    def _start_call(self, name: str, call_id: str | None = None) -> None:
        self._events.append(CallStart(self._index, name, call_id))
        self._is_in_call = True
        self._raw = []

    def _argue(self, text: str) -> None:
        if text:
            self._events.append(CallArguments(self._index, text))

    def _end_call(self, *, is_complete: bool = True) -> None:
        self._events.append(CallEnd(self._index, is_complete))
        self._is_in_call = False
        self._index += 1
        self._num_calls += 1

    def _expect_call(self, text: str, markers: MarkerSearch) -> tuple[str, str]:
        """Behind the section's marker, or behind a call: take the beginning of one, or the end.

        Returns:
            The marker, "" unless a call begins there, and the text that is left.
        """
        marker, text = self._expect(text, markers)
        if marker is None:
            return "", self._give_up(text) if text else ""
        self._raw.append(marker)
        if marker != self._end:
            return marker, text
        self._is_over = True
        if self._num_calls:
            self._raw = []
        else:
            self._say_all()
            self.ended_as_text = True
        return "", text

    # --- what goes wrong ------------------------------------------------------------------------
    def _give_up(self, text: str) -> str:
        """What was read since the last call is none."""
        self._say_all()
        self._is_over = self.ended_as_text = True
        self.text_until = self._end if self._num_calls else ""
        return text

    def _break_off(self, text: str) -> str:
        """The call goes wrong at the beginning of `text`."""
        self._end_call(is_complete=False)
        return self._give_up(text)

    def _read_end(self, text: str) -> str:
        """Behind the calls: the end marker, or text up to it."""
        marker, text = self._expect(text, self._behind_calls)
        if marker is None:
            return self._give_up(text) if text else ""
        self._is_over = True
        return text

    # --- text -----------------------------------------------------------------------------------
    def _keep(self, text: str, count: int) -> str:
        """Take characters, which are text should no call come of them; return what is left."""
        if not self._is_in_call:
            self._raw.append(text[:count])
        return text[count:]

    def _skip_space(self, text: str) -> str:
        return self._keep(text, len(text) - len(text.lstrip(SPACE)))

    def _expect(self, text: str, markers: MarkerSearch) -> tuple[str | None, str]:
        """Take one of the markers; white space before it is nobody's, once there is a call.

        Returns:
            The marker and what stands behind it; None and "" if it may come yet, None and the
            text if something else stands there.
        """
        text = self._unhold(text)
        bare = text.lstrip(SPACE)
        if len(bare) < len(text) and not (self._is_in_call or self._num_calls):
            self._raw.append(text[: len(text) - len(bare)])
        if not bare:
            return None, ""
        marker = markers.begins(bare)
        if marker == "":
            return None, self._hold(bare, markers.beginnings)
        return marker, bare[len(marker or "") :]

    def _gather(self, text: str, markers: MarkerSearch, most: int) -> tuple[str | None, str, str]:
        """Keep text up to a marker, such as a name.

        Returns:
            The text, the marker and what stands behind it. None for the text: the marker may come
            yet; "" for the marker: the text is longer than `most` characters, and no name.
        """
        before, marker, rest = self._take_up_to(text, markers)
        self._gathered.append(before)
        self._num_gathered += len(before)
        is_too_long = self._num_gathered > most
        if not marker and not is_too_long:
            return None, "", ""
        gathered = "".join(self._gathered)
        self._gathered, self._num_gathered = [], 0
        if is_too_long:
            return gathered + marker + self._unhold(rest), "", ""
        return gathered, marker, rest

    def _stream_up_to(self, text: str, markers: MarkerSearch) -> str | None:
        """Let a string out up to a marker; return what stands behind it. None: it may come yet."""
        value, marker, rest = self._take_up_to(text, markers)
        if value:
            self._events.append(CallArguments(self._index, encode_basestring(value)[1:-1]))
        if not marker:
            return None
        self._argue('"')
        return rest

    def _take_up_to(self, text: str, markers: MarkerSearch) -> tuple[str, str, str]:
        """Return what stands before a marker, the marker, "" if none has come, and what follows."""
        if self._held:
            text, self._held = self._held + text, ""
        elif markers.firsts.isdisjoint(text):  # quick: most characters end here
            return text, "", ""
        found = markers.find(text)
        before, marker = text[: found.at], found.marker
        if marker:
            self._beginnings = _NONE
            return before, marker, text[found.at + len(marker) :]
        self._held, self._beginnings = text[found.at :], markers.beginnings
        return before, "", ""

    def _hold(self, text: str, beginnings: frozenset[str] = _NONE) -> str:
        """Keep what cannot be told yet; the state is not asked while it is one of `beginnings`."""
        self._held, self._beginnings = text, beginnings
        return ""

    def _unhold(self, text: str) -> str:
        held, self._held, self._beginnings = self._held, "", _NONE
        return held + text

    def _say_all(self) -> None:
        self._say("".join(self._raw))
        self._raw = []

    def _say(self, text: str) -> None:
        """Let text out that belongs to no call, if there is any."""
        if text:
            self._events.append(Content(text))


def escape(text: str) -> str:
    """Write a piece of text as it stands within a JSON string."""
    return encode_basestring(text)[1:-1] if text else ""
