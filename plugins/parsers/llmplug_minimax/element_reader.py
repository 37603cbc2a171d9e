"""Read the calls of MiniMax M3: `]<]minimax[>[<city>London]<]minimax[>[</city>`.

The token `]<]minimax[>[` stands before every tag of a call; a tag without it is text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmplug.answer_parts import SectionReader, escape, search_for, types_of
from llmplug_minimax.element_values import Element, items_of, list_items, member_of

if TYPE_CHECKING:
    from llmplug.dialect import Opening

MAX_NAME = 256  # characters of a function's or element's name: what is longer is none
MAX_DEPTH = 32  # of nested elements: what is deeper is text
MARK = "]<]minimax[>["
_SECTION_END = f"{MARK}</tool_call>"
_CALL, _CALL_END = f'{MARK}<invoke name="', f"{MARK}</invoke>"
_ELEMENT = f"{MARK}<"

_IN_SECTION = search_for(_CALL, _SECTION_END)
_IN_NAME = search_for('">', MARK)
_IN_CALL = search_for(_ELEMENT, _CALL_END)
_IN_TAG = search_for(">", MARK)
_IN_ELEMENT = search_for(MARK)
_STRING, _ARRAY = frozenset({"string"}), frozenset({"array"})


class ElementReader(SectionReader):
    """Reads a section of calls; see `llmplug.dialect.CallReader`."""

    def __init__(self, opening: Opening) -> None:
        super().__init__(opening, _SECTION_END, self._read_call_start)
        self._parameters: Mapping[str, Any] = {}
        self._keys: set[str] = set()
        self._list = ""  # name of a list that goes on if the next element bears it too
        self._has_items = False
        self._elements: list[Element] = []  # that are open, the parameter first
        self._source: list[str] = []  # of the parameter
        self._is_string = False  # the parameter is one, and leaves as it comes

    def _finish_call(self) -> None:
        if self._elements:
            self._finish_value((MARK if self._state == self._read_tag else "") + self._unhold(""))
        super()._finish_call()

    def _finish_value(self, text: str) -> None:
        if self._is_string:
            self._argue(escape(text))
        elif len(self._elements) == 1 and not self._elements[0].children:
            self._argue("".join(self._elements[0].texts) + text)

    # --- calls ----------------------------------------------------------------------------------
    def _read_call_start(self, text: str) -> str:
        marker, text = self._expect_call(text, _IN_SECTION)
        if marker:
            self._state = self._read_name
        return text

    def _read_name(self, text: str) -> str:
        written, marker, text = self._gather(text, _IN_NAME, MAX_NAME)
        if written is None:
            return ""
        name = written.strip()
        if marker in ("", MARK) or not name:
            return self._give_up(written + marker + text)
        self._start_call(name)
        self._parameters = next((t.parameters for t in self._tools if t.name == name), {})
        self._keys = set()
        self._state = self._read_parameter
        return text

    def _read_parameter(self, text: str) -> str:
        """Behind a call's name or a parameter: a parameter, or the end of the call."""
        marker, text = self._expect(text, _IN_CALL)
        if marker is None:
            return self._break_off(text) if text else ""
        if marker == _ELEMENT:
            self._state = self._read_key
            return text
        self._close_list("")
        self._argue("}" if self._keys else "{}")
        self._end_call()
        self._state = self._read_call_start
        return text

    def _read_key(self, text: str) -> str:
        key, marker, text = self._gather(text, _IN_TAG, MAX_NAME)
        if key is None:
            return ""
        is_known = key in self._keys and key != self._list
        if marker in ("", MARK) or is_known or not _is_name(key):
            return self._break_off(_ELEMENT + key + marker + text)
        self._open_parameter(key)
        return text

    # --- parameters -----------------------------------------------------------------------------
    def _open_parameter(self, key: str) -> None:
        self._close_list(key)
        if key not in self._keys:
            self._argue(f"{', ' if self._keys else '{'}{json.dumps(key, ensure_ascii=False)}: ")
            self._keys.add(key)
        self._source = []
        self._open_element(key, member_of(self._parameters, key, self._parameters))
        self._is_string = self._elements[0].types == _STRING
        if self._is_string:
            self._argue('"')

    def _open_element(self, name: str, schema: Any) -> None:
        types = types_of(schema, self._parameters)
        self._elements.append(Element(name, schema, types, len(self._source)))
        self._state = self._read_content

    def _read_content(self, text: str) -> str:
        """Within an element: text, up to what may be a tag."""
        content, marker, rest = self._take_up_to(text, _IN_ELEMENT)
        self._add_text(content)
        if not marker:
            return ""
        self._state = self._read_tag
        return rest

    def _read_tag(self, text: str) -> str:
        """Behind a mark within an element: a tag, or text."""
        text = self._unhold(text)
        at = text.find(">", 0, MAX_NAME)
        if at < 0 and text[0] == "<" and len(text) < MAX_NAME:
            return self._hold(text)
        tag = text[:at] if at > 0 else ""
        element = self._elements[-1]
        if tag == f"</{element.name}":
            self._close_element()
        elif tag[:1] == "<" and _is_name(tag[1:]) and self._may_open():
            self._source.append(f"{MARK}{tag}>")
            self._open_element(tag[1:], self._schema_within(element, tag[1:]))
        else:
            self._add_text(MARK)
            self._state = self._read_content
            return text
        return text[at + 1 :]

    def _may_open(self) -> bool:
        return self._elements[-1].types != _STRING and len(self._elements) < MAX_DEPTH

    def _schema_within(self, element: Element, name: str) -> Any:
        if element.types == _ARRAY or (name == "item" and element.types is None):
            return items_of(element.schema, self._parameters)
        return member_of(element.schema, name, self._parameters)

    def _add_text(self, text: str) -> None:
        if self._is_string:
            self._argue(escape(text))
        elif text:
            self._elements[-1].texts.append(text)
            self._source.append(text)

    def _close_element(self) -> None:
        element = self._elements.pop()
        if self._is_string:
            self._argue('"')
        elif element.is_mixed:
            source = "".join(self._source[element.start :])
            self._add_value(element, json.dumps(source, ensure_ascii=False))
        else:
            self._add_value(element, element.write(self._parameters))
        self._state = self._read_content if self._elements else self._read_parameter

    def _add_value(self, element: Element, value: str) -> None:
        """Put a value into the element that it stands in, or among the arguments."""
        if self._elements:
            self._elements[-1].children.append((element.name, value))
            self._source.append(f"{MARK}</{element.name}>")
        elif element.types == _ARRAY:
            self._add_items(element.name, list_items(value))
        else:
            self._argue(value)

    def _add_items(self, name: str, items: str) -> None:
        """Begin a list, or go on with one: another element of this name adds to it."""
        if self._list != name:
            self._argue("[")
            self._list, self._has_items = name, False
        if items:
            self._argue((", " if self._has_items else "") + items)
            self._has_items = True

    def _close_list(self, key: str) -> None:
        """Close an open list, unless `key` goes on with it."""
        if self._list and self._list != key:
            self._argue("]")
            self._list = ""


def _is_name(text: str) -> bool:
    return bool(text) and text[0] != "/" and not any(char in "<\r\n" for char in text)
