"""Read a call, from behind `<function:` to behind `</function>`, however it is cut into pieces.

`SectionReader` keeps what is not certain yet, and lets text out that turns out to be no call. What
is written here is the way through a call: each state is a method that takes text and returns what
it leaves to the next one.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from llmplug.answer_parts import JsonScanner, SectionReader, search_for

if TYPE_CHECKING:
    from llmplug.dialect import Opening

MAX_NAME = 256  # characters of a function's or argument's name: what is longer is none
_END = "</function>"
_BEHIND_NAME = search_for(">", "<", "\n")
_BEHIND_KEY = search_for(":", "\n")
_IN_CALL = search_for("-", _END)


class ParleyReader(SectionReader):
    """Reads one call; see `llmplug.dialect.CallReader`."""

    _scanner: JsonScanner  # of the argument that is read

    def __init__(self, opening: Opening) -> None:
        super().__init__(opening, _END, self._read_name)
        self._keys: set[str] = set()
        self._line: list[str] = []  # of an argument that has no value yet

    def _read_name(self, text: str) -> str:
        written, marker, text = self._gather(text, _BEHIND_NAME, MAX_NAME)
        if written is None:
            return ""
        name = written.strip()
        if marker != ">" or not name:
            return self._give_up(written + marker + text)
        self._start_call(name)
        self._state = self._read_line
        return text

    def _read_line(self, text: str) -> str:
        """Behind the name, or an argument: another, or the end of the call."""
        marker, text = self._expect(text, _IN_CALL)
        if marker is None:
            return self._break_off(text) if text else ""
        if marker == "-":
            self._line = [marker]
            self._state = self._read_key
            return text
        self._argue("}" if self._keys else "{}")
        self._end_call()
        self._is_over = True
        return text

    def _read_key(self, text: str) -> str:
        written, marker, text = self._gather(text, _BEHIND_KEY, MAX_NAME)
        if written is None:
            return ""
        self._line.append(written + marker)
        key = written.strip()
        if marker != ":" or not key or key in self._keys:
            return self._break_off(text)
        self._argue((", " if self._keys else "{") + json.dumps(key, ensure_ascii=False) + ": ")
        self._keys.add(key)
        self._scanner = JsonScanner()
        self._state = self._read_value
        return text

    def _read_value(self, text: str) -> str:
        """Let JSON out as it comes, as the model wrote it."""
        if self._line:
            text = text.lstrip()
            self._line = [] if text else self._line
        at = self._scanner.feed(text)
        self._argue(text[:at])
        if self._scanner.is_bad:
            return self._break_off(text[at:])
        if self._scanner.is_done:
            self._state = self._read_line
        return text[at:]

    def _break_off(self, text: str) -> str:
        """The call ends here, and a line that has no value is text."""
        self._raw, self._line = self._line, []
        return super()._break_off(text)
