"""What every reader of tool calls keeps to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from llmplug.chat.marker_search import search_for
from llmplug.dialect import Content

if TYPE_CHECKING:
    from llmplug.dialect import Event, Tool


@dataclass(slots=True, kw_only=True)  # not frozen: to make one would take three times as long
class Opening:
    """Where a section of calls begins.

    Attributes:
        marker: the start marker that was met; "": the section is bare, and its first character
            is the first that the reader is fed.
        space: white space that stood before the marker and behind it is what a reader drops;
            this is what stood before, given back where the section turns out to be no call.
        first_index: of the next call.
        tools: the functions of the request.
    """

    marker: str
    space: str
    first_index: int
    tools: Sequence[Tool]


class EventLog(list["Event"]):
    """What a reader has made out since it was last asked."""

    def say(self, text: str) -> None:
        """Add text that belongs to no call, if there is any."""
        if text:
            self.append(Content(text))

    def take(self) -> list[Event]:
        """Hand over the events, and begin anew."""
        events = list(self)
        self.clear()
        return events


class Remainder:
    """What stands behind a malformed place, up to the end marker: text, and nothing else."""

    def __init__(self, end: str) -> None:
        self.end = end
        self._search = search_for(end)
        self._held = ""

    def feed(self, text: str) -> tuple[str, str | None]:
        """Return text to show, and what stands behind the end marker once it has come."""
        if not self.end:
            return "", text
        text = self._held + text
        found = self._search.find(text)
        if found.marker:
            return text[: found.at], text[found.at + len(found.marker) :]
        self._held = text[found.at :]
        return text[: found.at], None

    def finish(self) -> str:
        """Return what was held back."""
        return self._held


class CallReader(Protocol):
    """Reads one section of calls, from behind its start marker to behind its end marker.

    What turns out to be no call is not lost: it comes out as Content, marker and white space
    included, once that is certain. Where a call goes wrong after its CallStart, it ends there,
    incomplete, and the text from the bad place on is Content, up to the end marker, which closes
    the section. A key that holds the arguments a second time is such a bad place, and so are
    arguments that are no object. White space inside arguments is theirs. A call without arguments
    has the arguments `{}`.
    """

    ended_as_text: bool  # once it has ended: what is left over goes on as the text it became

    def feed(self, text: str) -> tuple[list[Event], str | None]:
        """Take more text.

        Returns:
            What is certain by now, and once the section has ended the text left over, else None.
            After that the reader is done with.
        """

    def finish(self) -> list[Event]:
        """Say that the answer ends within the section.

        A call without a name comes out as Content; one with a name ends, incomplete unless its
        arguments are whole.
        """
