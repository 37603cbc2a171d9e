"""Calls as JSON objects, read and written: `<tool_call>{"name": "f", "arguments": {...}}...`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmplug.answer_parts.json_scanner import JsonScanner
from llmplug.answer_parts.section_reader import SPACE, SectionReader
from llmplug.answer_parts.writing import arguments_of, repeat_calls
from llmplug.grammar import Node, OneOf, Seq, Text

if TYPE_CHECKING:
    from llmplug.dialect import JsonCalls, Opening, Tool

_decode = json.JSONDecoder().raw_decode  # a third of what `json.loads` takes for a short string
_GAP = f"{SPACE},;"  # what may stand between two objects


class JsonReader(SectionReader):
    """Reads a section of JsonCalls."""

    def __init__(self, syntax: JsonCalls, opening: Opening) -> None:
        self._is_bare = not opening.marker
        end = "" if self._is_bare else syntax.end.strip()
        super().__init__(
            opening, end, self._open_list if syntax.holds == "list" else self._open_call
        )
        self._syntax = syntax
        self._names = {tool.name for tool in opening.tools}
        self._begin_call()

    def _finish_call(self) -> None:
        self._end_call(is_complete=self._has_arguments and self._scanner.is_done)

    def _begin_call(self) -> None:
        self._has_arguments = False
        self._early: list[str] = []  # arguments that came before the name
        self._key = ""
        self._token: list[str] = []
        self._scanner = JsonScanner()

    # --- the section ----------------------------------------------------------------------------
    def _open_list(self, text: str) -> str:
        text = self._skip_space(text)
        if not text:
            return ""
        if text[0] != "[":
            return self._fail(text)
        self._state = self._open_call
        return self._keep(text, 1)

    def _open_call(self, text: str) -> str:
        text = self._skip_space(text)
        if not text:
            return ""
        if text[0] != "{":
            return self._fail(text)
        self._state = self._read_first_key
        return self._keep(text, 1)

    def _close_call(self, text: str) -> str:
        if not self._is_in_call:
            return self._fail(text)
        if not self._has_arguments:
            self._argue("{}")
        self._end_call()
        self._begin_call()
        if self._syntax.holds == "object":
            return self._close_section(text[1:])
        is_list = self._syntax.holds == "list"
        self._state = self._read_between_items if is_list else self._read_between_objects
        return text[1:]

    def _read_between_items(self, text: str) -> str:
        text = text.lstrip(SPACE)
        if not text:
            return ""
        if text[0] == "]":
            return self._close_section(text[1:])
        if text[0] != ",":
            return self._give_up(text)
        self._state = self._open_call
        return self._keep(text, 1)

    def _read_between_objects(self, text: str) -> str:
        text = self._keep(text, len(text) - len(text.lstrip(_GAP)))
        if not text:
            return ""
        if text[0] == "{":
            self._state = self._open_call
            return text
        gap = "".join(self._raw).lstrip(SPACE)
        self._raw = [gap]
        return self._give_up(text) if gap else self._close_section(text)  # a comma alone is text

    def _close_section(self, text: str) -> str:
        self._is_over = not self._end
        self._state = self._read_end
        return text

    # --- one call -------------------------------------------------------------------------------
    def _read_first_key(self, text: str) -> str:
        text = self._skip_space(text)
        if not text:
            return ""
        return self._close_call(text) if text[0] == "}" else self._read_key(text)

    def _read_key(self, text: str) -> str:
        text = self._skip_space(text)
        if not text:
            return ""
        if text[0] != '"':
            return self._fail(text)
        self._scanner, self._token = JsonScanner(), []
        self._state = self._read_key_text
        return text

    def _read_key_text(self, text: str) -> str:
        key, text = self._read_string(text)
        if key is not None:
            self._key = key
            self._state = self._read_colon
        return text

    def _read_colon(self, text: str) -> str:
        text = self._skip_space(text)
        if not text:
            return ""
        if text[0] != ":" or not self._accepts_key():
            return self._fail(text)
        self._scanner, self._token = JsonScanner(), []
        self._state = self._read_value
        return self._keep(text, 1)

    def _accepts_key(self) -> bool:
        """Whether the key may stand here; a bare section begins with one of the table's."""
        syntax = self._syntax
        if not syntax.name_key:
            return not self._is_in_call and self._take_name(self._key)
        if self._key == syntax.name_key:
            return not self._is_in_call
        if self._key in syntax.arguments_key:
            return not self._has_arguments
        return not self._is_bare or self._is_in_call or self._has_arguments

    def _take_name(self, name: str) -> bool:
        """Begin the call, if it may have that name."""
        if not name or (self._is_bare and name not in self._names):
            return False
        self._start_call(name)
        self._argue("".join(self._early))
        self._early = []
        return True

    def _read_value(self, text: str) -> str:
        text = self._skip_space(text)
        if not text:
            return ""
        first = ""
        if self._key == self._syntax.name_key:
            first, self._state = '"', self._read_name
        elif self._key in self._syntax.arguments_key or not self._syntax.name_key:
            first, self._state = "{", self._read_arguments
        else:
            self._state = self._skip_value
        if not text.startswith(first):
            return self._fail(text)
        self._has_arguments = self._has_arguments or first == "{"
        return text

    def _read_name(self, text: str) -> str:
        name, text = self._read_string(text)
        if name is None:
            return text
        self._state = self._read_after_value
        return text if self._take_name(name) else self._fail(text)

    def _read_arguments(self, text: str) -> str:
        at = self._scanner.feed(text)
        if self._is_in_call:
            self._argue(text[:at])
            if at == len(text) and not self._scanner.is_done:  # quick: most characters end here
                return ""
        else:
            self._early.append(text[:at])
        return self._follow(text, at)

    def _skip_value(self, text: str) -> str:
        return self._follow(text, self._scanner.feed(text))

    def _follow(self, text: str, at: int) -> str:
        """Go on behind what the scanner has read of a value."""
        text = self._keep(text, at)
        if self._scanner.is_bad:
            return self._fail(text)
        if self._scanner.is_done:
            self._state = self._read_after_value
        return text

    def _read_after_value(self, text: str) -> str:
        text = self._skip_space(text)
        if not text:
            return ""
        if text[0] == "}":
            return self._close_call(text)
        if text[0] != ",":
            return self._fail(text)
        self._state = self._read_key
        return self._keep(text, 1)

    def _read_string(self, text: str) -> tuple[str | None, str]:
        """Go on with a string; return it once it is whole, and what is left."""
        at = self._scanner.feed(text)
        self._token.append(text[:at])
        text = self._keep(text, at)
        if self._scanner.is_bad:
            return None, self._fail(text)
        if not self._scanner.is_done:
            return None, text
        token = "".join(self._token)
        value: str = _decode(token)[0]
        if "\\u" in token and any("\ud800" <= char <= "\udfff" for char in value):
            return None, self._fail(text)  # half a character
        return value, text

    def _fail(self, text: str) -> str:
        return self._break_off(text) if self._is_in_call else self._give_up(text)


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
