"""Calls whose keys are bare words, read: `call:f{k:<quote>v<quote>,n:1}`.

The arguments become JSON when the call is whole. `brace_grammar.py` writes such calls.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from llmplug.answer_parts.marker_search import search_for
from llmplug.answer_parts.section_reader import SectionReader

if TYPE_CHECKING:
    from llmplug.dialect import BraceCalls, Opening

MAX_NAME = 256  # characters of a name: what is longer is none
MAX_DEPTH = 64  # of nested brackets
_KEY = re.compile(r"\s*([\w.\-$]+)\s*:")
_SCALAR = re.compile(r"true|false|null|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_SPACE = re.compile(r"\s*")


class BraceReader(SectionReader):
    """Reads one of BraceCalls."""

    def __init__(self, syntax: BraceCalls, opening: Opening) -> None:
        super().__init__(opening, "", self._read_name)
        self._quote = syntax.quote
        self._call_end = syntax.end.strip()
        self._in_name = search_for("{", syntax.start.strip(), self._call_end)
        self._in_body = search_for(syntax.quote, self._call_end)
        self._in_quotes = search_for(syntax.quote)
        self._body: list[str] = []  # from the opening brace on
        self._is_quoted = False

    def _read_name(self, text: str) -> str:
        written, marker, text = self._gather(text, self._in_name, MAX_NAME)
        if written is None:
            return ""
        name = written.strip()
        if marker != "{" or not name:
            return self._give_up(written + marker + text)
        self._start_call(name)
        self._body = ["{"]
        self._state = self._read_body
        return text

    def _read_body(self, text: str) -> str:
        markers = self._in_quotes if self._is_quoted else self._in_body
        before, marker, text = self._take_up_to(text, markers)
        self._body.append(before)
        if marker == self._quote:
            self._is_quoted = not self._is_quoted
            self._body.append(marker)
        elif marker:
            self._finish_call()
            self._is_over = True
        return text

    def _finish_call(self) -> None:
        body = "".join(self._body) + self._unhold("")
        try:
            self._argue(_Body(body, self._quote).to_json())
        except ValueError:
            self._end_call(is_complete=False)
            self._say(body)
        else:
            self._end_call()


class _Body:
    """The text of one call's arguments."""

    def __init__(self, text: str, quote: str) -> None:
        self._text = text
        self._quote = quote
        self._at = 0

    def to_json(self) -> str:
        """Write it as JSON.

        Raises:
            ValueError: it is malformed.
        """
        written = self._read_value(0)
        self._skip_space()
        if self._at < len(self._text):
            raise ValueError("more than one value")
        return written

    def _read_value(self, depth: int) -> str:
        self._skip_space()
        if depth > MAX_DEPTH:
            raise ValueError("nested too deeply")
        if self._take("{"):
            return self._read_object(depth)
        if self._take("["):
            return "[" + ", ".join(self._read_items("]", self._read_value, depth)) + "]"
        if self._take(self._quote):
            return json.dumps(self._read_string(), ensure_ascii=False)
        match = _SCALAR.match(self._text, self._at)
        if match is None:
            raise ValueError("no value")
        self._at = match.end()
        return match.group()

    def _read_object(self, depth: int) -> str:
        keys: set[str] = set()

        def read_pair(depth: int) -> str:
            key = self._read_key()
            if key in keys and depth == 1:
                raise ValueError("an argument stands twice")
            keys.add(key)
            return f"{json.dumps(key, ensure_ascii=False)}: {self._read_value(depth)}"

        return "{" + ", ".join(self._read_items("}", read_pair, depth)) + "}"

    def _read_items(self, end: str, read: Callable[[int], str], depth: int) -> list[str]:
        items: list[str] = []
        self._skip_space()
        if self._take(end):
            return items
        while True:
            items.append(read(depth + 1))
            self._skip_space()
            if self._take(end):
                return items
            if not self._take(","):
                raise ValueError("no comma")

    def _read_key(self) -> str:
        self._skip_space()
        if self._take(self._quote):
            key = self._read_string()
            self._skip_space()
            if not self._take(":"):
                raise ValueError("no colon")
            return key
        match = _KEY.match(self._text, self._at)
        if match is None:
            raise ValueError("no key")
        self._at = match.end()
        return match[1]

    def _read_string(self) -> str:
        end = self._text.find(self._quote, self._at)
        if end < 0:
            raise ValueError("a string without end")
        value = self._text[self._at : end]
        self._at = end + len(self._quote)
        return value

    def _take(self, text: str) -> bool:
        if not self._text.startswith(text, self._at):
            return False
        self._at += len(text)
        return True

    def _skip_space(self) -> None:
        match = _SPACE.match(self._text, self._at)
        self._at = self._at if match is None else match.end()
