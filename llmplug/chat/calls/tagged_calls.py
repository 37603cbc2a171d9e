"""Calls whose parameters stand in tags, read; `tagged_grammar.py` writes them.

`<function=f><parameter=k>v</parameter></function>` has the arguments `{"k": "v"}`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from llmplug.chat.calls.parameter_types import allowed_types, type_of
from llmplug.chat.calls.python_literals import to_json
from llmplug.chat.calls.reader import EventLog, Opening, Remainder
from llmplug.chat.marker_search import MarkerSearch, search_for
from llmplug.dialect import (
    CallArguments,
    CallEnd,
    CallStart,
    Event,
    TaggedCalls,
    ValueKind,
)

MAX_NAME = 256  # characters of a function's or parameter's name: what is longer is none
_SPACE = " \t\n\r"
_STRING = frozenset({"string"})
# Templates print these values of JSON as Python does.
_WORDS = {"True": "true", "False": "false", "None": "null"}


class _Markers(NamedTuple):
    """The markers of a table, without white space round them, and the searches for them."""

    name_start: str
    name_end: str
    key_start: str
    value_start: str
    value_end: str
    end: str
    section_end: str
    around: tuple[str, str]  # of a call within a section
    in_section: tuple[str, ...]  # what may come next in a section of calls
    in_call: tuple[str, str]
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
    before, behind = syntax.around or ("", "")
    around = (before.strip(), behind.strip())
    # Without a marker behind it, a name goes up to whatever comes next.
    ends = (name_end,) if name_end else (key_start, call_end)
    return _Markers(
        name_start=name_start,
        name_end=name_end,
        key_start=key_start,
        value_start=syntax.value[0].strip(),
        value_end=value_end,
        end=call_end,
        section_end=section_end,
        around=around,
        in_section=(name_start, section_end, *filter(None, around)),
        in_call=(key_start, call_end),
        in_name=search_for(*ends, name_start),
        in_key=search_for(*syntax.key[1]),
        in_value=search_for(value_end),
        quote_start=quotes[0],
        in_quotes=search_for(quotes[1] + value_end),
    )


class TaggedReader:
    """Reads a section of TaggedCalls, or one call where there are no sections.

    A value goes up to the next end marker, whatever stands in it: where a model leaves one out,
    the tags behind it are taken for the value, and the call breaks off with the answer.
    """

    def __init__(self, syntax: TaggedCalls, opening: Opening) -> None:
        self.ended_as_text = False
        self._syntax = syntax
        self._tools = opening.tools
        self._markers = _markers_of(syntax)
        self._in_value = self._markers.in_value
        self._rest = Remainder(self._markers.section_end or self._markers.end)
        self._index = opening.first_index
        self._events = EventLog()
        self._raw = [opening.space + opening.marker]  # of what has no name as yet
        self._tag: list[str] = []  # of a parameter without a value as yet
        self._held = ""
        self._num_calls = 0
        self._is_over = False
        self._state: Callable[[str], str] = self._read_name  # takes text, returns what is left
        if syntax.section is not None:
            self._state = self._read_call_start
        self._begin_call()

    def feed(self, text: str) -> tuple[list[Event], str | None]:
        """Take more text; see `CallReader`."""
        while text and not self._is_over:
            text = self._state(text)
        return self._events.take(), text if self._is_over else None

    def finish(self) -> list[Event]:
        """Say that the answer ends here; see `CallReader`."""
        if self._is_in_call:
            if self._state == self._stream_value:
                self._argue(_escape(self._held))
            elif self._state == self._hold_value:
                self._argue("".join(self._value) + self._held)
            else:
                self._tag.append(self._held)
            self._held = ""
            self._events.append(CallEnd(self._index, is_complete=False))
        left = "".join(self._raw) + "".join(self._tag) + self._held + self._rest.finish()
        self._events.say(left.strip(_SPACE) and left if self._num_calls else left)
        return self._events.take()

    def _begin_call(self) -> None:
        self._is_in_call = False
        self._parameters: Mapping[str, Any] = {}
        self._keys: set[str] = set()
        self._types: frozenset[str] | None = None
        self._kind: ValueKind = "schema"
        self._value: list[str] = []  # of a value that is decided on when it is whole

    # --- calls ----------------------------------------------------------------------------------
    def _read_call_start(self, text: str) -> str:
        """Behind the section's marker, or behind a call of a section."""
        marker, text = self._expect(text, self._markers.in_section)
        if marker is None:
            return self._give_up(text) if text else ""
        if marker == self._markers.section_end:
            if self._num_calls:
                self._raw = []
                self._is_over = True
                return text
            self._raw.append(marker)
            self._say_all()
            self._is_over = self.ended_as_text = True
            return text
        if marker == self._markers.around[1]:
            return text
        self._raw.append(marker)
        if marker == self._markers.name_start:
            self._state = self._read_name
        return text

    def _read_name(self, text: str) -> str:
        text = self._unhold(text)
        found = self._markers.in_name.find(text)
        if found.at > MAX_NAME or found.marker == self._markers.name_start:
            return self._give_up(text)
        if not found.marker:
            self._held = text
            return ""
        name = text[: found.at].strip()
        if not name:
            return self._give_up(text)
        self._raw = []
        self._is_in_call = True
        self._parameters = next((t.parameters for t in self._tools if t.name == name), {})
        self._events.append(CallStart(self._index, name))
        self._state = self._read_tag
        return text[found.at + len(found.marker) :] if self._markers.name_end else text[found.at :]

    def _read_tag(self, text: str) -> str:
        """Behind the name or a value: a parameter, or the end of the call."""
        marker, text = self._expect(text, self._markers.in_call)
        if marker is None:
            return self._break_off(text) if text else ""
        if marker == self._markers.end:
            return self._end_call(text)
        self._tag = [marker]
        self._state = self._read_key
        return text

    def _end_call(self, text: str) -> str:
        self._argue("}" if self._keys else "{}")
        self._events.append(CallEnd(self._index, is_complete=True))
        self._index += 1
        self._num_calls += 1
        self._begin_call()
        self._is_over = not self._markers.section_end
        self._state = self._read_call_start
        return text

    # --- parameters -----------------------------------------------------------------------------
    def _read_key(self, text: str) -> str:
        text = self._unhold(text)
        found = self._markers.in_key.find(text)
        if found.at > MAX_NAME:
            return self._break_off(text)
        if not found.marker:
            self._held = text
            return ""
        key = text[: found.at].strip()
        if key in self._keys or not key:
            return self._break_off(text)
        self._tag.append(text[: found.at] + found.marker)
        self._kind = self._syntax.key[1][found.marker]
        self._types = allowed_types(self._parameters, key)
        self._state = self._read_value_start
        self._key = key
        text = text[found.at + len(found.marker) :]
        return text if self._markers.value_start else self._begin_value(text)

    def _read_value_start(self, text: str) -> str:
        marker, text = self._expect(text, (self._markers.value_start,))
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
            self._held = text
            return ""
        self._state = self._after_pad
        text = text.removeprefix(pad)
        return text if text else ""

    def _read_quote(self, text: str) -> str:
        """What may stand round the value."""
        text = self._unhold(text)
        start = self._markers.quote_start
        if len(text) < len(start) and start.startswith(text):
            self._held = text
            return ""
        if text.startswith(start):
            self._in_value = self._markers.in_quotes
        self._state = self._after_quote
        return text.removeprefix(start)

    def _stream_value(self, text: str) -> str:
        """A string: it leaves as it comes, but for what may be its end."""
        text = self._unhold(text)
        found = self._in_value.find(text)
        if found.marker:
            self._argue(_escape(text[: found.at].removesuffix(self._syntax.pad)) + '"')
            self._state = self._read_tag
            return text[found.at + len(found.marker) :]
        sure = max(0, found.at - len(self._syntax.pad))
        self._argue(_escape(text[:sure]))
        self._held = text[sure:]
        return ""

    def _hold_value(self, text: str) -> str:
        """Anything else: what it is shows when it is whole."""
        text = self._unhold(text)
        found = self._in_value.find(text)
        self._value.append(text[: found.at])
        if not found.marker:
            self._held = text[found.at :]
            return ""
        self._argue(self._as_json("".join(self._value).removesuffix(self._syntax.pad)))
        self._value = []
        self._state = self._read_tag
        return text[found.at + len(found.marker) :]

    def _as_json(self, text: str) -> str:
        """Write a value as JSON: as it stands where that is JSON which may stand here."""
        value = text.strip(_SPACE)
        types = self._types if self._kind == "schema" else None
        has_words = self._kind == "schema" and (types is None or types & {"boolean", "null"})
        word = _WORDS.get(value, value) if has_words else value
        kind = _json_type(word)
        may_be_text = types is None or "string" in types
        if kind is not None and (types is None or kind in types or not may_be_text):
            return word
        if kind is None and not may_be_text:  # some templates print lists as Python does
            word = to_json(value) or ""
            if word:
                return word
        return json.dumps(text, ensure_ascii=False)

    # --- what goes wrong ------------------------------------------------------------------------
    def _give_up(self, text: str) -> str:
        """What was read is no call."""
        self._say_all()
        self._is_over = self.ended_as_text = not self._num_calls or not self._rest.end
        self._state = self._read_rest
        return text

    def _break_off(self, text: str) -> str:
        """The call ends here, incomplete."""
        self._events.append(CallEnd(self._index, is_complete=False))
        self._index += 1
        self._is_in_call = False
        self._raw, self._tag = self._tag, []
        self._say_all()
        self._state = self._read_rest
        return text

    def _read_rest(self, text: str) -> str:
        shown, left = self._rest.feed(text)
        self._events.say(shown)
        self._is_over = left is not None
        return left or ""

    # --- text -----------------------------------------------------------------------------------
    def _expect(self, text: str, markers: Sequence[str]) -> tuple[str | None, str]:
        """Take one of the markers; no marker and no text: more is needed to tell."""
        text = self._unhold(text)
        bare = text.lstrip(_SPACE)
        if len(bare) < len(text):
            self._keep(text[: len(text) - len(bare)])
        for marker in markers:
            if marker and bare.startswith(marker):
                return marker, bare[len(marker) :]
        for marker in markers:
            if marker.startswith(bare):
                self._held = bare
                return None, ""
        return None, bare

    def _keep(self, space: str) -> None:
        """White space before a marker belongs to what has no name as yet, or to nobody."""
        if not self._is_in_call:
            self._raw.append(space)

    def _unhold(self, text: str) -> str:
        held, self._held = self._held, ""
        return held + text

    def _argue(self, text: str) -> None:
        if text:
            self._events.append(CallArguments(self._index, text))

    def _say_all(self) -> None:
        self._events.say("".join(self._raw))
        self._raw = []


def _escape(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _json_type(text: str) -> str | None:
    """Return the type of a JSON text; None: it is none."""
    try:
        return type_of(json.loads(text, parse_constant=_refuse))
    except (ValueError, RecursionError):
        return None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
