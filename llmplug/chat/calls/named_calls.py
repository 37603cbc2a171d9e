"""Calls whose name stands before a JSON object, read and written: `[TOOL_CALLS]f[ARGS]{...}`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from llmplug.chat.calls.json_scanner import JsonScanner
from llmplug.chat.calls.reader import EventLog, Opening, Remainder
from llmplug.chat.calls.writing import arguments_of, repeat_calls
from llmplug.chat.marker_search import search_for
from llmplug.dialect import CallArguments, CallEnd, CallStart, Event, NamedCalls
from llmplug.grammar import Node, OneOf, Regex, Repeat, Seq, Text

if TYPE_CHECKING:
    from llmplug.dialect import Tool

MAX_NAME = 256  # characters up to `after_name`: what is longer is no name
_SPACE = " \t\n\r"
_INDEX = Regex("0|[1-9][0-9]{0,3}")  # calls of earlier turns may count too


class NamedReader:
    """Reads a section of NamedCalls, or one call where there are no sections."""

    def __init__(self, syntax: NamedCalls, opening: Opening) -> None:
        self.ended_as_text = False
        self._syntax = syntax
        self._has_section = syntax.section is not None
        self._call_end = syntax.end.strip()
        self._last = syntax.section[1].strip() if syntax.section else self._call_end
        self._rest = Remainder(self._last)
        # No marker behind the name: the object itself ends it.
        self._after_name = syntax.after_name.strip() or syntax.after_name
        self._in_name = search_for(self._after_name or "{", syntax.start.strip())
        self._index = opening.first_index
        self._num_calls = 0
        self._is_over = False
        self._events = EventLog()
        self._raw = [opening.space + opening.marker]  # of what has no name as yet
        self._held = ""
        self._state: Callable[[str], str] = self._read_name  # takes text, returns what is left
        if self._has_section:
            self._state = self._read_start
            self._next = search_for(syntax.start.strip())
        self._begin_call()

    def feed(self, text: str) -> tuple[list[Event], str | None]:
        """Take more text; see `CallReader`."""
        while text and not self._is_over:
            text = self._state(text)
        return self._events.take(), text if self._is_over else None

    def finish(self) -> list[Event]:
        """Say that the answer ends here; see `CallReader`."""
        if self._is_in_call:
            self._end_call(is_complete=False)
        self._events.say("".join(self._raw) + self._held + self._rest.finish())
        return self._events.take()

    def _begin_call(self) -> None:
        self._is_in_call = False
        self._scanner = JsonScanner()

    # --- states ---------------------------------------------------------------------------------
    def _read_start(self, text: str) -> str:
        """Behind the section's marker."""
        marker, text = self._expect(text)
        if marker is None:
            return self._give_up(text) if text else ""
        self._raw.append(marker)
        self._state = self._read_name
        return text

    def _read_name(self, text: str) -> str:
        text = self._held + text
        self._held = ""
        found = self._in_name.find(text)
        if found.at > MAX_NAME or found.marker == self._syntax.start.strip():
            return self._give_up(text)
        if not found.marker:
            self._held = text
            return ""
        if not self._start_call(text[: found.at].strip()):
            return self._give_up(text)
        self._state = self._read_arguments
        return text[found.at + len(self._after_name) :]

    def _read_arguments(self, text: str) -> str:
        text = text.lstrip(_SPACE)
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
        if at:
            self._events.append(CallArguments(self._index, text[:at]))
        if self._scanner.is_bad:
            return self._break_off(text[at:])
        if self._scanner.is_done:
            self._end_call(is_complete=True)
        return text[at:]

    def _read_no_arguments(self, text: str) -> str:
        marker, text = self._expect(text)
        if marker is None:
            return self._break_off(text) if text else ""
        self._events.append(CallArguments(self._index, "{}"))
        self._end_call(is_complete=True)
        return marker + text

    def _read_behind(self, text: str) -> str:
        """Behind whole arguments: the call's end, another call, or the section's end."""
        marker, text = self._expect(text)
        if marker is None:
            return self._drop(text) if text else ""
        if marker == self._last:
            self._is_over = True
        elif marker == self._call_end:
            self._look_for_next()
        elif not self._has_section:  # a call of its own
            self._is_over = True
            return marker + text
        else:
            self._raw.append(marker)
            self._state = self._read_name
        return text

    def _read_rest(self, text: str) -> str:
        shown, left = self._rest.feed(text)
        self._events.say(shown)
        self._is_over = left is not None
        return left or ""

    # --- steps ----------------------------------------------------------------------------------
    def _expect(self, text: str) -> tuple[str | None, str]:
        """Look for one of the next markers, white space before it aside.

        Returns:
            The marker and what stands behind it; nothing and "" if it may come yet, nothing and
            the text if something else stands there.
        """
        text = self._held + text
        self._held = ""
        body = text.lstrip(_SPACE)
        if self._num_calls == 0 and not self._is_in_call:
            self._raw.append(text[: len(text) - len(body)])
        if not body:
            return None, ""
        marker = self._next.begins(body)
        if marker == "":
            self._held = body
            return None, ""
        return marker, body[len(marker or "") :]

    def _start_call(self, text: str) -> bool:
        """Begin a call if the text says which."""
        name, call_id = text, None
        if self._syntax.name_pattern:
            match = re.fullmatch(self._syntax.name_pattern, text)
            groups = match.groupdict() if match is not None else {}
            name, call_id = groups.get("name") or "", groups.get("id")
        if not name or "\n" in name:
            return False
        self._events.append(CallStart(self._index, name, call_id))
        self._is_in_call = True
        self._raw = []
        return True

    def _end_call(self, *, is_complete: bool) -> None:
        self._events.append(CallEnd(self._index, is_complete))
        self._index += 1
        self._num_calls += 1
        self._begin_call()
        self._state = self._read_behind
        self._next = search_for(self._syntax.start.strip(), self._call_end, self._last)
        self._is_over = not self._last and not self._has_section

    def _look_for_next(self) -> None:
        self._next = search_for(self._syntax.start.strip(), self._last)

    def _break_off(self, text: str) -> str:
        """The call goes wrong at the beginning of `text`."""
        self._end_call(is_complete=False)
        return self._drop(text)

    def _give_up(self, text: str) -> str:
        """What was read since the last call is none."""
        self._events.say("".join(self._raw))
        self._raw = []
        if self._num_calls:
            return self._drop(text)
        self._is_over = self.ended_as_text = True
        return text

    def _drop(self, text: str) -> str:
        """From here to the end marker all is text."""
        self._is_over = self.ended_as_text = not self._last
        self._state = self._read_rest
        return text


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
