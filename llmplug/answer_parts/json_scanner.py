"""Follow JSON text character by character, without building its value (RFC 8259)."""

from __future__ import annotations

import re

MAX_DEPTH = 128  # of nested arrays and objects: what is deeper is malformed

_PLAIN = re.compile(r'[^"\\\x00-\x1f]+')  # of a string
_DIGITS = "0123456789"

# What a character leads to, beside the name of a place:
_PUSH = "push"  # an array or object opens
_POP = "pop"  # it closes
_END = "end"  # a value ends
_DEEDS = frozenset({_PUSH, _POP, _END})


def _words() -> dict[str, dict[str, str]]:
    """Places within `true`, `false` and `null`: each is named by what has been read."""
    places: dict[str, dict[str, str]] = {}
    for word in ("true", "false", "null"):
        for n in range(1, len(word)):
            places[word[:n]] = {word[n]: word[: n + 1] if n + 1 < len(word) else _END}
    return places


def _strings(name: str, then: str) -> dict[str, dict[str, str]]:
    """Places within a string; its plain characters are skipped by `_PLAIN`."""
    places = {name: {'"': then, "\\": f"{name} escape"}}
    places[f"{name} escape"] = {**dict.fromkeys('"\\/bfnrt', name), "u": f"{name} hex 1"}
    for n in range(1, 5):
        following = f"{name} hex {n + 1}" if n < 4 else name
        places[f"{name} hex {n}"] = dict.fromkeys(_DIGITS + "abcdefABCDEF", following)
    return places


def _numbers() -> dict[str, dict[str, str]]:
    exponent = {"e": "exponent", "E": "exponent"}
    return {
        "minus": {"0": "zero", **dict.fromkeys(_DIGITS[1:], "integer")},
        "zero": {".": "dot", **exponent},
        "integer": {".": "dot", **exponent, **dict.fromkeys(_DIGITS, "integer")},
        "dot": dict.fromkeys(_DIGITS, "fraction"),
        "fraction": {**exponent, **dict.fromkeys(_DIGITS, "fraction")},
        "exponent": {"+": "sign", "-": "sign", **dict.fromkeys(_DIGITS, "power")},
        "sign": dict.fromkeys(_DIGITS, "power"),
        "power": dict.fromkeys(_DIGITS, "power"),
    }


def _structure() -> dict[str, dict[str, str]]:
    numbers = {"-": "minus", "0": "zero", **dict.fromkeys(_DIGITS[1:], "integer")}
    words = {"t": "t", "f": "f", "n": "n"}
    value = {"{": _PUSH, "[": _PUSH, '"': "string", **numbers, **words}
    places = {
        "value": value,
        "first item": {**value, "]": _POP},
        "first key": {'"': "key", "}": _POP},
        "next key": {'"': "key"},
        "colon": {":": "value"},
        "after item": {",": "value", "]": _POP},
        "after pair": {",": "next key", "}": _POP},
    }
    return {place: {**steps, **dict.fromkeys(" \t\n\r", place)} for place, steps in places.items()}


_STEPS = {
    **_structure(),
    **_numbers(),
    **_words(),
    **_strings("key", "colon"),
    **_strings("string", _END),
}
_STRINGS = frozenset({"string", "key"})
_WHOLE_NUMBERS = frozenset({"zero", "integer", "fraction", "power"})
_FIRST = {"{": "first key", "[": "first item"}
_AFTER = {"{": "after pair", "[": "after item"}


class JsonScanner:
    """Reads one JSON value; the text may come in any pieces.

    Attributes:
        is_done: the value is whole. A number is whole at the first character that is none of it.
        is_bad: the next character cannot follow.
    """

    def __init__(self) -> None:
        self.is_done = False
        self.is_bad = False
        self._place = "value"
        self._open: list[str] = []

    def feed(self, text: str, at: int = 0) -> int:
        """Read from `at` on; return the place of the first character that was not read."""
        place, end = self._place, len(text)
        while at < end and not self.is_done:
            step = _STEPS[place].get(text[at])
            if step is None:
                if place in _STRINGS and text[at] >= " ":  # plain: quotes and escapes have a step
                    at += 1
                    if at < end and (plain := _PLAIN.match(text, at)) is not None:
                        at = plain.end()
                elif place in _WHOLE_NUMBERS:
                    place = self._end_value()
                else:
                    self.is_bad = True
                    break
                continue
            if step in _DEEDS:
                if step == _PUSH and len(self._open) == MAX_DEPTH:
                    self.is_bad = True
                    break
                step = self._nest(step, text[at])
            place = step
            at += 1
        self._place = place
        return at

    def _nest(self, step: str, char: str) -> str:
        if step == _PUSH:
            self._open.append(char)
            return _FIRST[char]
        if step == _POP:
            self._open.pop()
        return self._end_value()

    def _end_value(self) -> str:
        self.is_done = not self._open
        return _AFTER[self._open[-1]] if self._open else _END
