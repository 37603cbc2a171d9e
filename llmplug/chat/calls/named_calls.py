"""Calls whose name stands before a JSON object, read and written: `[TOOL_CALLS]f[ARGS]{...}`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmplug.answer_parts.json_scanner import JsonScanner
from llmplug.answer_parts.marker_search import search_for
from llmplug.answer_parts.section_reader import SPACE, SectionReader
from llmplug.answer_parts.writing import arguments_of, repeat_calls
from llmplug.grammar import Node, OneOf, Regex, Repeat, Seq, Text

if TYPE_CHECKING:
    from llmplug.dialect import NamedCalls, Opening, Tool

MAX_NAME = 256  # characters up to `after_name`: what is longer is no name
_INDEX = Regex("0|[1-9][0-9]{0,3}")  # calls of earlier turns may count too


class NamedReader(SectionReader):
    """Reads a section of NamedCalls, or one call where there are no sections."""

    def __init__(self, syntax: NamedCalls, opening: Opening) -> None:
        self._syntax = syntax
        self._has_section = syntax.section is not None
        self._call_start = syntax.start.strip()
        self._call_end = syntax.end.strip()
        self._last = syntax.section[1].strip() if syntax.section else self._call_end
        state = self._read_start if self._has_section else self._read_name
        super().__init__(opening, self._last, state)
        # No marker behind the name: the object itself ends it.
        self._after_name = syntax.after_name.strip() or syntax.after_name
        self._in_name = search_for(self._after_name or "{", self._call_start)
        self._next = search_for(self._call_start)
        self._scanner = JsonScanner()

    # --- states ---------------------------------------------------------------------------------
    def _read_start(self, text: str) -> str:
        """Behind the section's marker."""
        marker, text = self._expect(text, self._next)
        if marker is None:
            return self._give_up(text) if text else ""
        self._raw.append(marker)
        self._state = self._read_name
        return text

    def _read_name(self, text: str) -> str:
        written, marker, text = self._gather(text, self._in_name, MAX_NAME)
        if written is None:
            return ""
        name, call_id = self._split_name(written.strip())
        if marker in ("", self._call_start) or not name:
            return self._give_up(written + marker + text)
        self._start_call(name, call_id)
        self._state = self._read_arguments
        return text if self._after_name else marker + text

    def _read_arguments(self, text: str) -> str:
        text = text.lstrip(SPACE)
        if not text:
            return ""
        if text[0] == "{":
            self._state = self._scan_arguments
        elif self._call_end:  # perhaps there are none
            self._next = search_for(self._call_end)
            self._state = self._read_no_arguments
        else:
            return self._break_off(text)
        return text

    def _scan_arguments(self, text: str) -> str:
        at = self._scanner.feed(text)
        self._argue(text[:at])
        if self._scanner.is_bad:
            return self._break_off(text[at:])
        if self._scanner.is_done:
            self._look_behind()
        return text[at:]

    def _read_no_arguments(self, text: str) -> str:
        marker, text = self._expect(text, self._next)
        if marker is None:
            return self._break_off(text) if text else ""
        self._argue("{}")
        self._look_behind()
        return marker + text

    def _read_behind(self, text: str) -> str:
        """Behind whole arguments: the call's end, another call, or the section's end."""
        marker, text = self._expect(text, self._next)
        if marker is None:
            return self._give_up(text) if text else ""
        if marker == self._last:
            self._is_over = True
        elif marker == self._call_end:
            self._next = search_for(self._call_start, self._last)
        elif not self._has_section:  # a call of its own
            self._is_over = True
            return marker + text
        else:
            self._raw.append(marker)
            self._state = self._read_name
        return text

    # --- steps ----------------------------------------------------------------------------------
    def _split_name(self, text: str) -> tuple[str, str | None]:
        """Return the name of a call and its id, if it has one; "": the text is no name."""
        name, call_id = text, None
        if self._syntax.name_pattern:
            match = re.fullmatch(self._syntax.name_pattern, text)
            groups = match.groupdict() if match is not None else {}
            name, call_id = groups.get("name") or "", groups.get("id")
        return ("" if "\n" in name else name), call_id

    def _look_behind(self) -> None:
        """The arguments are whole, and the call with them."""
        self._end_call()
        self._scanner = JsonScanner()
        self._state = self._read_behind
        self._next = search_for(self._call_start, self._call_end, self._last)
        self._is_over = not self._last and not self._has_section


def named_grammar(syntax: NamedCalls, tools: Sequence[Tool], least: int, most: int | None) -> Node:
    """What forced calls look like: from the first marker to the last."""
    choice = OneOf([_call_grammar(syntax, tool) for tool in tools])
    call = Seq([Text(syntax.start), choice, Text(syntax.end)])
    calls = repeat_calls(call, Repeat(Text("\n"), 0, 1), least, most)
    if syntax.section is None:
        return calls
    return Seq([Text(syntax.section[0]), calls, Text(syntax.section[1])])


def _call_grammar(syntax: NamedCalls, tool: Tool) -> Node:
    before, *rest = syntax.name_format.replace("{name}", tool.name).split("{index}")
    name: list[Node] = [Text(before)] if before else []
    for text in rest:
        name += [_INDEX, *([Text(text)] if text else [])]
    return Seq([*name, Text(syntax.after_name), arguments_of(tool)])
