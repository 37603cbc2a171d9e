"""Calls whose parameters stand in tags, read; `tagged_grammar.py` writes them.

`<function=f><parameter=k>v</parameter></function>` has the arguments `{"k": "v"}`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from llmplug.answer_parts.marker_search import MarkerSearch, search_for
from llmplug.answer_parts.parameter_types import allowed_types, write_value
from llmplug.answer_parts.section_reader import SectionReader, escape

if TYPE_CHECKING:
    from llmplug.dialect import Opening, TaggedCalls, ValueKind

MAX_NAME = 256  # characters of a function's or parameter's name: what is longer is none
_STRING = frozenset({"string"})


class _Markers(NamedTuple):
    """The markers of a table, without white space round them, and the searches for them."""

    name_start: str
    name_end: str
    value_start: MarkerSearch
    end: str
    section_end: str
    behind_call: str
    in_section: MarkerSearch  # what may come next in a section of calls
    in_call: MarkerSearch
    in_name: MarkerSearch
    in_key: MarkerSearch
    in_value: MarkerSearch
    quote_start: str
    in_quotes: MarkerSearch


@lru_cache(maxsize=256)
def _markers_of(syntax: TaggedCalls) -> _Markers:
    """Return a table's markers; a reader is made for every marker that an answer holds."""
    name_start, name_end = (marker.strip() for marker in syntax.name)
    key_start, call_end = syntax.key[0].strip(), syntax.end.strip()
    section_end = syntax.section[1].strip() if syntax.section else ""
    value_end = syntax.value[1].strip() or syntax.value[1]
    quotes = syntax.quotes or ("", "")
    before, behind = (marker.strip() for marker in syntax.around or ("", ""))
    # Without a marker behind it, a name goes up to whatever comes next.
    ends = (name_end,) if name_end else (key_start, call_end)
    return _Markers(
        name_start=name_start,
        name_end=name_end,
        value_start=search_for(syntax.value[0].strip()),
        end=call_end,
        section_end=section_end,
        behind_call=behind,
        in_section=search_for(name_start, section_end, before, behind),
        in_call=search_for(key_start, call_end),
        in_name=search_for(*ends, name_start),
        in_key=search_for(*syntax.key[1]),
        in_value=search_for(value_end, syntax.pad + value_end),
        quote_start=quotes[0],
        in_quotes=search_for(quotes[1] + value_end),
    )


class TaggedReader(SectionReader):
    """Reads a section of TaggedCalls, or one call where there are no sections.

    A value goes up to the next end marker, whatever stands in it: where a model leaves one out,
    the tags behind it are taken for the value, and the call breaks off with the answer.
    """

    def __init__(self, syntax: TaggedCalls, opening: Opening) -> None:
        markers = _markers_of(syntax)
        state = self._read_name if syntax.section is None else self._read_call_start
        super().__init__(opening, markers.section_end or markers.end, state)
        self._syntax = syntax
        self._markers = markers
        self._in_value = markers.in_value
        self._tag: list[str] = []  # of a parameter without a value as yet
        self._begin_call()

    def _finish_call(self) -> None:
        if self._state == self._stream_value:
            self._argue(escape(self._unhold("")))
        elif self._state == self._hold_value:
            self._argue("".join(self._value) + self._unhold(""))
        self._raw = self._tag
        super()._finish_call()

    def _begin_call(self) -> None:
        self._parameters: Mapping[str, Any] = {}
        self._keys: set[str] = set()
        self._types: frozenset[str] | None = None
        self._kind: ValueKind = "schema"
        self._value: list[str] = []  # of a value that is decided on when it is whole

    # --- calls ----------------------------------------------------------------------------------
    def _read_call_start(self, text: str) -> str:
        """Behind the section's marker, or behind a call of a section."""
        marker, text = self._expect_call(text, self._markers.in_section)
        if marker == self._markers.name_start:
            self._state = self._read_name
        elif marker and marker == self._markers.behind_call and self._num_calls:
            self._raw.pop()  # it is no text, whatever comes
        return text

    def _read_name(self, text: str) -> str:
        name, marker, text = self._gather(text, self._markers.in_name, MAX_NAME)
        if name is None:
            return ""
        behind = marker + text
        if marker in ("", self._markers.name_start) or not name.strip():
            return self._give_up(name + behind)
        name = name.strip()
        self._start_call(name)
        self._parameters = next((t.parameters for t in self._tools if t.name == name), {})
        self._state = self._read_tag
        return text if self._markers.name_end else behind

    def _read_tag(self, text: str) -> str:
        """Behind the name or a value: a parameter, or the end of the call."""
        marker, text = self._expect(text, self._markers.in_call)
        if marker is None:
            return self._break_off(text) if text else ""
        if marker == self._markers.end:
            return self._end_arguments(text)
        self._tag = [marker]
        self._state = self._read_key
        return text

    def _end_arguments(self, text: str) -> str:
        self._argue("}" if self._keys else "{}")
        self._end_call()
        self._begin_call()
        self._is_over = not self._markers.section_end
        self._state = self._read_call_start
        return text

    # --- parameters -----------------------------------------------------------------------------
    def _read_key(self, text: str) -> str:
        written, marker, text = self._gather(text, self._markers.in_key, MAX_NAME)
        if written is None:
            return ""
        key = written.strip()
        if not marker or key in self._keys or not key:
            return self._break_off(written + marker + text)
        self._tag.append(written + marker)
        self._kind = self._syntax.key[1][marker]
        self._types = allowed_types(self._parameters, key)
        self._state = self._read_value_start
        self._key = key
        return text if self._syntax.value[0].strip() else self._begin_value(text)

    def _read_value_start(self, text: str) -> str:
        marker, text = self._expect(text, self._markers.value_start)
        if marker is None:
            return self._break_off(text) if text else ""
        return self._begin_value(text)

    def _begin_value(self, text: str) -> str:
        self._argue(
            (", " if self._keys else "{") + json.dumps(self._key, ensure_ascii=False) + ": "
        )
        self._keys.add(self._key)
        self._tag = []
        self._value = []
        is_text = self._kind == "text" or (self._kind == "schema" and self._types == _STRING)
        if is_text:
            self._argue('"')
        self._in_value = self._markers.in_value
        self._after_quote = self._stream_value if is_text else self._hold_value
        self._after_pad = self._read_quote if self._markers.quote_start else self._after_quote
        self._state = self._read_pad if self._syntax.pad else self._after_pad
        return text

    def _read_pad(self, text: str) -> str:
        """The value's first characters, of which a pad is none."""
        text = self._unhold(text)
        pad = self._syntax.pad
        if len(text) < len(pad) and pad.startswith(text):
            return self._hold(text)
        self._state = self._after_pad
        text = text.removeprefix(pad)
        return text if text else ""

    def _read_quote(self, text: str) -> str:
        """What may stand round the value."""
        text = self._unhold(text)
        start = self._markers.quote_start
        if len(text) < len(start) and start.startswith(text):
            return self._hold(text)
        if text.startswith(start):
            self._in_value = self._markers.in_quotes
        self._state = self._after_quote
        return text.removeprefix(start)

    def _stream_value(self, text: str) -> str:
        """A string: it leaves as it comes, but for what may be its end."""
        rest = self._stream_up_to(text, self._in_value)
        if rest is None:
            return ""
        self._state = self._read_tag
        return rest

    def _hold_value(self, text: str) -> str:
        """Anything else: what it is shows when it is whole."""
        value, marker, rest = self._take_up_to(text, self._in_value)
        self._value.append(value)
        if not marker:
            return ""
        self._argue(self._as_json("".join(self._value)))
        self._value = []
        self._state = self._read_tag
        return rest

    def _as_json(self, text: str) -> str:
        is_free = self._kind == "schema"
        return write_value(text, self._types if is_free else None, has_words=is_free)

    def _break_off(self, text: str) -> str:
        """The call ends here, and what has been read of a parameter is text."""
        self._raw, self._tag = self._tag, []
        return super()._break_off(text)
