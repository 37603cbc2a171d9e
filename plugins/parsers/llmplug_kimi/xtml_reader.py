"""Read the calls of Kimi K3, elements whose brackets are tokens.

`<|open|>call tool="f" index="1"<|sep|>` holds an element for each argument,
`<|open|>argument key="k" type="string"<|sep|>v<|close|>argument<|sep|>`, or one with them all,
`<|open|>json type="object"<|sep|>{...}<|close|>json<|sep|>`. In names and keys `&` and `"` are
written `&amp;` and `&quot;`; in values nothing is escaped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmplug.answer_parts import (
    JsonScanner,
    SectionReader,
    allowed_types,
    escape,
    search_for,
    write_value,
)

if TYPE_CHECKING:
    from llmplug.dialect import Opening

MAX_HEADER = 512  # characters of an element's attributes: what is longer is no header
_SECTION_END = "<|close|>tools<|sep|>"
_CALL, _CALL_END = "<|open|>call", "<|close|>call<|sep|>"
_ARGUMENT, _JSON = "<|open|>argument", "<|open|>json"

_IN_SECTION = search_for(_CALL, _SECTION_END)
_IN_CALL = search_for(_ARGUMENT, _JSON, _CALL_END)
_SEPARATOR = "<|sep|>"
_BEHIND_HEADER = search_for(_SEPARATOR, "<|open|>", "<|close|>")
_BEHIND_ARGUMENT = search_for("<|close|>argument<|sep|>")
_BEHIND_JSON = search_for("<|close|>json<|sep|>")
_BEHIND_ALL = search_for(_CALL_END)
_ATTRIBUTE = re.compile(r'\s*(\w+)="([^"]*)"')
_STRING = frozenset({"string"})


class XtmlReader(SectionReader):
    """Reads the section `tools` of an answer; see `llmplug.dialect.CallReader`."""

    def __init__(self, opening: Opening) -> None:
        super().__init__(opening, _SECTION_END, self._read_call_start)
        self._header: list[str] = []  # of an argument without a value as yet
        self._parameters: Mapping[str, Any] = {}
        self._keys: set[str] = set()
        self._types: frozenset[str] | None = None
        self._value: list[str] = []  # of an argument that is decided on when it is whole
        self._scanner = JsonScanner()

    def _finish_call(self) -> None:
        if self._state == self._stream_value:
            self._argue(escape(self._unhold("")))
        elif self._state == self._hold_value:
            self._argue("".join(self._value) + self._unhold(""))
        self._raw = self._header
        super()._finish_call()

    # --- calls ----------------------------------------------------------------------------------
    def _read_call_start(self, text: str) -> str:
        marker, text = self._expect_call(text, _IN_SECTION)
        if marker:
            self._state = self._read_call_header
        return text

    def _read_call_header(self, text: str) -> str:
        header, marker, rest = self._gather(text, _BEHIND_HEADER, MAX_HEADER)
        if header is None:
            return ""
        name = _read_attributes(header).get("tool")
        if marker != _SEPARATOR or not name:
            return self._give_up(header + marker + rest)
        self._start_call(name)
        self._keys = set()
        self._parameters = next((t.parameters for t in self._tools if t.name == name), {})
        self._state = self._read_argument
        return rest

    def _read_argument(self, text: str) -> str:
        """Behind a call's header or an argument: an argument, or the end of the call."""
        marker, text = self._expect(text, _IN_CALL)
        if marker is None or (marker == _JSON and self._keys):
            return self._break_off((marker or "") + text) if marker or text else ""
        if marker == _CALL_END:
            self._argue("}" if self._keys else "{}")
            return self._end_arguments(text)
        self._header = [marker]
        self._state = self._read_json_header if marker == _JSON else self._read_argument_header
        return text

    def _end_arguments(self, text: str) -> str:
        self._end_call()
        self._state = self._read_call_start
        return text

    # --- arguments one by one -------------------------------------------------------------------
    def _read_argument_header(self, text: str) -> str:
        header, marker, rest = self._gather(text, _BEHIND_HEADER, MAX_HEADER)
        if header is None:
            return ""
        attributes = _read_attributes(header)
        key = attributes.get("key")
        if marker != _SEPARATOR or not key or key in self._keys:
            return self._break_off(header + marker + rest)
        self._header = []
        self._argue((", " if self._keys else "{") + json.dumps(key, ensure_ascii=False) + ": ")
        self._keys.add(key)
        kind = attributes.get("type")
        self._types = allowed_types(self._parameters, key) if kind is None else None
        if kind == "string" or self._types == _STRING:
            self._argue('"')
            self._state = self._stream_value
        else:
            self._value = []
            self._state = self._hold_value
        return rest

    def _stream_value(self, text: str) -> str:
        rest = self._stream_up_to(text, _BEHIND_ARGUMENT)
        if rest is None:
            return ""
        self._state = self._read_argument
        return rest

    def _hold_value(self, text: str) -> str:
        value, marker, rest = self._take_up_to(text, _BEHIND_ARGUMENT)
        self._value.append(value)
        if not marker:
            return ""
        self._argue(write_value("".join(self._value), self._types, has_words=False))
        self._state = self._read_argument
        return rest

    # --- arguments as one object ----------------------------------------------------------------
    def _read_json_header(self, text: str) -> str:
        header, marker, rest = self._gather(text, _BEHIND_HEADER, MAX_HEADER)
        if header is None:
            return ""
        if marker != _SEPARATOR:
            return self._break_off(header + marker + rest)
        self._header.append(header + marker)
        self._state = self._read_json_start
        return rest

    def _read_json_start(self, text: str) -> str:
        text = text.lstrip()
        if not text:
            return ""
        if text[0] != "{":
            return self._break_off(text)
        self._header = []
        self._scanner = JsonScanner()
        self._state = self._scan_json
        return text

    def _scan_json(self, text: str) -> str:
        at = self._scanner.feed(text)
        self._argue(text[:at])
        if self._scanner.is_bad:
            return self._break_off(text[at:])
        if self._scanner.is_done:
            self._state = self._read_json_end
        return text[at:]

    def _read_json_end(self, text: str) -> str:
        marker, text = self._expect(text, _BEHIND_JSON)
        if marker is None:
            return self._break_off(text) if text else ""
        self._state = self._read_call_end
        return text

    def _read_call_end(self, text: str) -> str:
        marker, text = self._expect(text, _BEHIND_ALL)
        if marker is None:
            return self._break_off(text) if text else ""
        return self._end_arguments(text)

    def _break_off(self, text: str) -> str:
        """The call ends here, and what has been read of an argument is text."""
        self._raw, self._header = self._header, []
        return super()._break_off(text)


def _read_attributes(header: str) -> dict[str, str]:
    """Return the attributes of an element; none if anything else stands among them."""
    found = dict(_ATTRIBUTE.findall(header))
    if _ATTRIBUTE.sub("", header).strip():
        return {}
    return {key: value.replace("&quot;", '"').replace("&amp;", "&") for key, value in found.items()}
