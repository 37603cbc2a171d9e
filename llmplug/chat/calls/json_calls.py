"""Calls as JSON objects, read and written: `<tool_call>{"name": "f", "arguments": {...}}...`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from llmplug.answer_parts.json_scanner import JsonScanner
from llmplug.answer_parts.section_reader import EventLog, Remainder
from llmplug.answer_parts.writing import arguments_of, repeat_calls
from llmplug.dialect import CallArguments, CallEnd, CallStart, Event, JsonCalls
from llmplug.grammar import Node, OneOf, Seq, Text

if TYPE_CHECKING:
    from llmplug.dialect import Opening, Tool

_SPACE = " \t\n\r"
_State = Callable[[str, int], int]  # (text, place) -> place of the first character not taken


class JsonReader:
    """Reads a section of JsonCalls."""

    def __init__(self, syntax: JsonCalls, opening: Opening) -> None:
        self._syntax = syntax
        self._opening = opening
        self._names = {tool.name for tool in opening.tools}
        self._index = opening.first_index
        self._events = EventLog()
        self._rest = Remainder(syntax.end.strip() if opening.marker else "")
        self._state: _State = self._open_section
        self.ended_as_text = False
        self._is_bad = False
        self._is_over = False
        self._raw = [opening.space + opening.marker]  # of a call without a name as yet
        self._gap: list[str] = []  # what stood between two calls
        self._num_calls = 0
        self._begin_call()

    def feed(self, text: str) -> tuple[list[Event], str | None]:
        """Take more text; see `CallReader`."""
        at = 0
        while not self._is_over and at < len(text):
            before = at
            at = self._state(text, at)
            if not self._has_name:
                self._raw.append(text[before:at])
            if self._is_bad:
                self._give_up()
                self._is_bad = False
        events, self._events = self._events, EventLog()
        return events, text[at:] if self._is_over else None

    def finish(self) -> list[Event]:
        """Say that the answer ends here; see `CallReader`."""
        if self._state == self._read_rest:
            self._events.say(self._rest.finish())
        elif self._is_between:
            self._events.say("".join(self._gap).strip(_SPACE))
        elif self._has_name:
            is_whole = self._has_arguments and self._scanner.is_done
            self._events.append(CallEnd(self._index, is_complete=is_whole))
        else:
            self._events.say("".join(self._raw))
        return self._events.take()

    def _begin_call(self) -> None:
        self._has_name = False
        self._is_between = False
        self._has_arguments = False
        self._held: list[str] = []  # arguments that came before the name
        self._key = ""
        self._token: list[str] = []
        self._scanner = JsonScanner()

    # --- the section ----------------------------------------------------------------------------
    def _open_section(self, text: str, at: int) -> int:
        if text[at] in _SPACE:
            return at + 1
        if self._syntax.holds == "list":
            self._is_bad = text[at] != "["
            self._state = self._open_call
            return at if self._is_bad else at + 1
        return self._open_call(text, at)

    def _open_call(self, text: str, at: int) -> int:
        if text[at] in _SPACE:
            return at + 1
        if text[at] != "{":
            self._is_bad = True
            return at
        self._state = self._read_first_key
        return at + 1

    def _close_call(self, at: int) -> int:
        """Take the closing brace."""
        if not self._has_name:
            self._is_bad = True
            return at
        if not self._has_arguments:
            self._events.append(CallArguments(self._index, "{}"))
        self._events.append(CallEnd(self._index, is_complete=True))
        self._num_calls += 1
        self._index += 1
        self._is_between = True
        self._gap = []
        if self._syntax.holds == "object":
            self._close_section()
        else:
            self._state = self._read_between
        return at + 1

    def _read_between(self, text: str, at: int) -> int:
        """Behind a call of several."""
        if self._syntax.holds == "list":
            return self._read_between_items(text, at)
        char = text[at]
        if char == "{":
            self._next_call()
            return self._open_call(text, at)
        if char in _SPACE or char in ",;":
            self._gap.append(char)
            return at + 1
        if self._rest.end:
            self._close_section()
            return at
        gap = "".join(self._gap).lstrip(_SPACE)  # a comma with no call behind it is text
        self._events.say(gap)
        self._is_over, self.ended_as_text = True, bool(gap)
        return at

    def _read_between_items(self, text: str, at: int) -> int:
        char = text[at]
        if char == "]":
            self._close_section()
        elif char == ",":
            self._next_call()
            self._state = self._open_call
        elif char not in _SPACE:
            return self._drop(at)
        return at + 1

    def _next_call(self) -> None:
        self._begin_call()
        self._raw = self._gap

    def _close_section(self) -> None:
        self._is_over = not self._rest.end
        self._state = self._read_end

    def _read_end(self, text: str, at: int) -> int:
        """Take the end marker; anything else is text up to it."""
        held = "".join(self._gap)
        so_far = (held + text[at:]).lstrip(_SPACE)
        end = self._rest.end
        if so_far.startswith(end):
            self._is_over = True
            return len(text) - (len(so_far) - len(end))
        if end.startswith(so_far):
            self._gap = [so_far]
            return len(text)
        held = held.lstrip(_SPACE)
        self._events.say(held)
        return self._drop(len(text) - (len(so_far) - len(held)))

    def _drop(self, at: int) -> int:
        """From here to the end marker all is text."""
        self._is_over = self.ended_as_text = not self._rest.end
        self._state = self._read_rest
        return at

    def _read_rest(self, text: str, at: int) -> int:
        shown, left = self._rest.feed(text[at:])
        self._events.say(shown)
        self._is_over = left is not None
        return len(text) - len(left or "")

    def _give_up(self) -> None:
        """What was read is no call, or none from here on."""
        if self._has_name:
            self._events.append(CallEnd(self._index, is_complete=False))
            self._index += 1
            self._drop(0)
        else:
            self._events.say("".join(self._raw))
            if self._num_calls:
                self._drop(0)
            else:
                self._is_over = self.ended_as_text = True
        self._has_name = self._is_between = True  # nothing more is kept for a call

    # --- one call -------------------------------------------------------------------------------
    def _read_first_key(self, text: str, at: int) -> int:
        if text[at] == "}":
            return self._close_call(at)
        return self._read_key(text, at)

    def _read_key(self, text: str, at: int) -> int:
        if text[at] in _SPACE:
            return at + 1
        if text[at] != '"':
            self._is_bad = True
            return at
        self._scanner, self._token = JsonScanner(), []
        self._state = self._read_key_text
        return self._read_key_text(text, at)

    def _read_key_text(self, text: str, at: int) -> int:
        at, key = self._read_string(text, at)
        if key is not None:
            self._key = key
            self._state = self._read_colon
        return at

    def _read_colon(self, text: str, at: int) -> int:
        if text[at] in _SPACE:
            return at + 1
        if text[at] != ":" or not self._accepts_key():
            self._is_bad = True
            return at
        self._scanner, self._token = JsonScanner(), []
        self._state = self._read_value
        return at + 1

    def _accepts_key(self) -> bool:
        """Whether the key may stand here; a bare section begins with one of the table's."""
        syntax = self._syntax
        if not syntax.name_key:
            return not self._has_name and self._start_call(self._key)
        if self._key == syntax.name_key:
            return not self._has_name
        if self._key in syntax.arguments_key:
            return not self._has_arguments
        return not self._is_bare or self._has_name or self._has_arguments

    @property
    def _is_bare(self) -> bool:
        return not self._opening.marker

    def _read_value(self, text: str, at: int) -> int:
        if text[at] in _SPACE:
            return at + 1
        if self._key == self._syntax.name_key:
            self._state = self._read_name
        elif self._key in self._syntax.arguments_key or not self._syntax.name_key:
            if text[at] != "{":
                self._is_bad = True
                return at
            self._has_arguments = True
            self._state = self._read_arguments
        else:
            self._state = self._skip_value
        return self._state(text, at)

    def _read_name(self, text: str, at: int) -> int:
        at, name = self._read_string(text, at)
        if name is not None:
            self._is_bad = not self._start_call(name)
            self._state = self._read_after_value
        return at

    def _start_call(self, name: str) -> bool:
        if not name or (self._is_bare and name not in self._names):
            return False
        self._has_name = True
        self._raw = []
        self._events.append(CallStart(self._index, name))
        if self._held:
            self._events.append(CallArguments(self._index, "".join(self._held)))
            self._held = []
        return True

    def _read_arguments(self, text: str, at: int) -> int:
        scanner = self._scanner
        end = scanner.feed(text, at)
        if end > at and self._has_name:
            self._events.append(CallArguments(self._index, text[at:end]))
        elif end > at:
            self._held.append(text[at:end])
        return self._after_scan(end) if scanner.is_done or scanner.is_bad else end

    def _skip_value(self, text: str, at: int) -> int:
        return self._after_scan(self._scanner.feed(text, at))

    def _after_scan(self, end: int) -> int:
        self._is_bad = self._scanner.is_bad
        if self._scanner.is_done:
            self._state = self._read_after_value
        return end

    def _read_after_value(self, text: str, at: int) -> int:
        if text[at] in _SPACE:
            return at + 1
        if text[at] == "}":
            return self._close_call(at)
        self._is_bad = text[at] != ","
        self._state = self._read_key
        return at if self._is_bad else at + 1

    def _read_string(self, text: str, at: int) -> tuple[int, str | None]:
        """Go on with a string; its value once it is whole."""
        if not self._token and text[at] != '"':
            self._is_bad = True
            return at, None
        end = self._scanner.feed(text, at)
        self._token.append(text[at:end])
        self._is_bad = self._scanner.is_bad
        if not self._scanner.is_done:
            return end, None
        value = str(json.loads("".join(self._token)))
        self._is_bad = any("\ud800" <= char <= "\udfff" for char in value)  # half a character
        return end, None if self._is_bad else value


def json_grammar(syntax: JsonCalls, tools: Sequence[Tool], least: int, most: int | None) -> Node:
    """What forced calls look like: from the first marker to the last."""
    start = Text(syntax.start[0]) if syntax.start else None
    end = Text(syntax.end) if start is not None and syntax.end else None
    call = OneOf([_call_grammar(syntax, tool) for tool in tools])
    if syntax.holds == "object":
        return repeat_calls(_between(start, call, end), Text("\n"), least, most)
    if syntax.holds == "objects":
        return _between(start, repeat_calls(call, Text("\n"), least, most), end)
    calls = repeat_calls(call, Text(", "), least, most)
    return _between(start, Seq([Text("["), calls, Text("]")]), end)


def _between(start: Text | None, node: Node, end: Text | None) -> Node:
    return Seq([each for each in (start, node, end) if each is not None])


def _call_grammar(syntax: JsonCalls, tool: Tool) -> Node:
    name = json.dumps(tool.name, ensure_ascii=False)
    if not syntax.name_key:
        head = f"{{{name}: "
    else:
        head = f'{{"{syntax.name_key}": {name}, "{syntax.arguments_key[0]}": '
    return Seq([Text(head), arguments_of(tool), Text("}")])
