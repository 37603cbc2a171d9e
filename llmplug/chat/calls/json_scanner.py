"""Follow JSON text character by character, without building its value (RFC 8259)."""

from __future__ import annotations

import re
from enum import Enum, auto

MAX_DEPTH = 128  # of nested arrays and objects: what is deeper is malformed

_SPACE = re.compile(r"[ \t\n\r]*")
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
_NUMBER_CHARS = re.compile(r"[-+0-9.eE]*")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_WORD_CHARS = re.compile(r"[a-z]*")
_WORDS = frozenset({"true", "false", "null"})
_MAX_TOKEN = 4096  # characters of one number: longer ones are malformed


class _Place(Enum):
    VALUE = auto()
    FIRST_ITEM = auto()  # of an array: a value or its end
    FIRST_KEY = auto()  # of an object: a key or its end
    KEY = auto()
    COLON = auto()
    AFTER = auto()  # behind a value
    STRING = auto()
    ESCAPE = auto()
    HEX = auto()
    NUMBER = auto()
    WORD = auto()


_EMPTY_ENDS = {_Place.FIRST_KEY: "}", _Place.FIRST_ITEM: "]"}  # what ends an empty one


class JsonScanner:
    """Reads one JSON value; the text may come in any pieces.

    Attributes:
        is_done: the value is whole. A number is whole at the first character that is none of it.
        is_bad: the next character cannot follow.
    """

    def __init__(self) -> None:
        self.is_done = False
        self.is_bad = False
        self._place = _Place.VALUE
        self._open: list[str] = []
        self._is_key = False
        self._token = ""  # of a number or word so far
        self._num_hex = 0

    def feed(self, text: str, at: int = 0) -> int:
        """Read from `at` on; return the place of the first character that was not read."""
        end = len(text)
        while at < end and not self.is_done and not self.is_bad:
            at = self._step(text, at)
        return at

    def _step(self, text: str, at: int) -> int:
        place = self._place
        if place is _Place.STRING:
            return self._read_string(text, at)
        if place is _Place.ESCAPE:
            return self._read_escape(text, at)
        if place is _Place.HEX:
            return self._read_hex(text, at)
        if place is _Place.NUMBER or place is _Place.WORD:
            return self._read_token(text, at)
        at = _space_end(text, at)
        return self._read_structure(text, at) if at < len(text) else at

    def _read_structure(self, text: str, at: int) -> int:
        char, place = text[at], self._place
        if place is _Place.AFTER:
            return self._read_after(char, at)
        if char == _EMPTY_ENDS.get(place):
            return self._close(at)
        if place is _Place.COLON and char == ":":
            self._place = _Place.VALUE
        elif place in {_Place.KEY, _Place.FIRST_KEY} and char == '"':
            self._place, self._is_key = _Place.STRING, True
        elif place in {_Place.VALUE, _Place.FIRST_ITEM}:
            return self._begin_value(char, at)
        else:
            return self._fail(at)
        return at + 1

    def _begin_value(self, char: str, at: int) -> int:
        if char in "{[":
            if len(self._open) == MAX_DEPTH:
                return self._fail(at)
            self._open.append(char)
            self._place = _Place.FIRST_KEY if char == "{" else _Place.FIRST_ITEM
        elif char == '"':
            self._place, self._is_key = _Place.STRING, False
        elif char in "-0123456789":
            self._place, self._token = _Place.NUMBER, char
        elif char in "tfn":
            self._place, self._token = _Place.WORD, char
        else:
            return self._fail(at)
        return at + 1

    def _read_after(self, char: str, at: int) -> int:
        if char == ",":
            self._place = _Place.KEY if self._open[-1] == "{" else _Place.VALUE
            return at + 1
        if char == ("}" if self._open[-1] == "{" else "]"):
            return self._close(at)
        return self._fail(at)

    def _close(self, at: int) -> int:
        self._open.pop()
        self._end_value()
        return at + 1

    def _end_value(self) -> None:
        self._place = _Place.AFTER
        self.is_done = not self._open

    def _read_string(self, text: str, at: int) -> int:
        at = _end(_PLAIN, text, at)
        if at == len(text):
            return at
        if text[at] == "\\":
            self._place = _Place.ESCAPE
        elif text[at] != '"':
            return self._fail(at)
        elif self._is_key:
            self._place = _Place.COLON
        else:
            self._end_value()
        return at + 1

    def _read_escape(self, text: str, at: int) -> int:
        if text[at] == "u":
            self._place, self._num_hex = _Place.HEX, 0
        elif text[at] in '"\\/bfnrt':
            self._place = _Place.STRING
        else:
            return self._fail(at)
        return at + 1

    def _read_hex(self, text: str, at: int) -> int:
        if text[at] not in "0123456789abcdefABCDEF":
            return self._fail(at)
        self._num_hex += 1
        if self._num_hex == 4:
            self._place = _Place.STRING
        return at + 1

    def _read_token(self, text: str, at: int) -> int:
        is_number = self._place is _Place.NUMBER
        end = _end(_NUMBER_CHARS if is_number else _WORD_CHARS, text, at)
        self._token += text[at:end]
        if len(self._token) > _MAX_TOKEN:
            return self._fail(end)
        if not is_number and self._token not in _WORDS:
            can_grow = end == len(text) and any(word.startswith(self._token) for word in _WORDS)
            return end if can_grow else self._fail(end)
        if is_number:
            if end == len(text):
                return end
            if not _NUMBER.fullmatch(self._token):
                return self._fail(end)
        self._end_value()
        return end

    def _fail(self, at: int) -> int:
        self.is_bad = True
        return at


def _space_end(text: str, at: int) -> int:
    return _end(_SPACE, text, at)


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return at if match is None else match.end()
