"""Literals of Python (and of JSON) in text that comes in pieces, and the JSON they stand for."""

from __future__ import annotations

import ast
import json
import re
import warnings
from typing import Any

MAX_DEPTH = 64  # of nested brackets
_PLAIN = re.compile(r"[^'\"\[\](){},\\#]+")
_IN_STRING = {"'": re.compile(r"[^'\\]+"), '"': re.compile(r'[^"\\]+')}
_WORDS = {"true": True, "false": False, "null": None}  # as JSON spells them
_OPENS, _CLOSES = "([{", ")]}"


class LiteralScanner:
    """Finds the end of a value: a comma or a bracket that no bracket or string holds.

    Attributes:
        is_done: the end is found.
        is_bad: the brackets do not match, or are nested too deeply.
    """

    def __init__(self) -> None:
        self.is_done = False
        self.is_bad = False
        self._open: list[str] = []
        self._quote = ""  # of the string that the text is in: one character, or three
        self._run = ""  # quotes that stand one after the other
        self._is_escaped = False

    def feed(self, text: str, at: int = 0) -> int:
        """Read from `at` on; return the place of the first character that was not read."""
        while at < len(text) and not self.is_done and not self.is_bad:
            at = self._read_quoted(text, at) if self._quote else self._read(text, at)
        return at

    def _read(self, text: str, at: int) -> int:
        char = text[at]
        if self._run:
            return self._read_run(char, at)
        if char in "'\"":
            self._run = char
        elif char in _OPENS:
            self._open.append(_CLOSES[_OPENS.index(char)])
            self.is_bad = len(self._open) > MAX_DEPTH
        elif char in ",)]}":
            return self._read_end(char, at)
        elif char in "\\#":  # a line that goes on, or a comment: no literal
            self.is_bad = True
            return at
        else:
            match = _PLAIN.match(text, at)
            return at + 1 if match is None else match.end()
        return at + 1

    def _read_end(self, char: str, at: int) -> int:
        if not self._open:
            self.is_done = True
            return at
        if char == self._open[-1]:
            self._open.pop()
        elif char != ",":
            self.is_bad = True
            return at
        return at + 1

    def _read_run(self, char: str, at: int) -> int:
        """Behind one quote or two: a string begins, or an empty one has ended."""
        if char == self._run[0]:
            self._run += char
            if len(self._run) == 3:
                self._quote, self._run = self._run, ""
            return at + 1
        if len(self._run) == 1:
            self._quote = self._run
        self._run = ""
        return at

    def _read_quoted(self, text: str, at: int) -> int:
        char = text[at]
        if self._is_escaped:
            self._is_escaped = False
            return at + 1
        if char == "\\":
            self._is_escaped, self._run = True, ""
            return at + 1
        if char != self._quote[0]:
            self._run = ""
            match = _IN_STRING[self._quote[0]].match(text, at)
            return at + 1 if match is None else match.end()
        self._run += char
        if self._run == self._quote:
            self._quote = self._run = ""
        return at + 1


def to_json(text: str) -> str | None:
    """Write a literal as JSON; None: it is none, or has no JSON."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that Python does not know
            tree = ast.parse(text.strip(), mode="eval")
        return _write(tree.body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _write(node: ast.expr) -> str:
    match node:
        case ast.Constant(value):
            return _write_constant(value)
        case ast.Name(id=word) if word in _WORDS:
            return json.dumps(_WORDS[word])
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=ast.Constant(value)) if _is_number(
            value
        ):
            sign = "-" if isinstance(node.op, ast.USub) else ""
            return sign + _write_constant(value)
        case ast.List(items) | ast.Tuple(items):
            return f"[{', '.join(map(_write, items))}]"
        case ast.Dict(keys, values):
            pairs = [f"{_write_key(k)}: {_write(v)}" for k, v in zip(keys, values, strict=True)]
            return f"{{{', '.join(pairs)}}}"
    raise ValueError("no literal that JSON has")


def _write_key(node: ast.expr | None) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return _write_constant(node.value)
    raise ValueError("a key that is no string")


def _write_constant(value: Any) -> str:
    if isinstance(value, str):
        if any("\ud800" <= char <= "\udfff" for char in value):
            raise ValueError("half a character")
        return json.dumps(value, ensure_ascii=False)
    if value is None or isinstance(value, bool) or _is_number(value):
        return json.dumps(value, allow_nan=False)
    raise ValueError("no constant that JSON has")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
