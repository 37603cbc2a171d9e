"""Calls as Python writes them, read and written: `[f(a=1), g(b="x")]`, or one a line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from llmplug.answer_parts.parameter_types import Parameter, list_members, with_definitions
from llmplug.answer_parts.python_literals import LiteralScanner, to_json
from llmplug.answer_parts.section_reader import EventLog, Remainder
from llmplug.answer_parts.writing import list_arguments, repeat_calls
from llmplug.dialect import CallArguments, CallEnd, CallStart, Event, PythonCalls
from llmplug.errors import GrammarError
from llmplug.grammar import Json, Node, OneOf, Regex, Seq, Text

if TYPE_CHECKING:
    from llmplug.dialect import Opening, Tool

MAX_NAME = 256  # characters of a name: what is longer is none
_SPACE = " \t\n\r"
_NAME = re.compile(r"[\w.\-]+")
_WORD = re.compile(r"\w+")


class PythonReader:
    """Reads a section of PythonCalls."""

    def __init__(self, syntax: PythonCalls, opening: Opening) -> None:
        self.ended_as_text = False
        self._syntax = syntax
        self._names = None if opening.marker else {tool.name for tool in opening.tools}
        self._end = syntax.end.strip() if opening.marker else ""
        self._rest = Remainder(self._end)
        self._index = opening.first_index
        self._events = EventLog()
        self._raw = [opening.space + opening.marker]  # of what has no name as yet
        self._num_calls = 0
        self._is_over = False
        self._state: Callable[[str, int], int] = (
            self._read_bracket if syntax.is_list else self._read_name
        )
        self._begin_call()

    def feed(self, text: str) -> tuple[list[Event], str | None]:
        """Take more text; see `CallReader`."""
        at = 0
        while at < len(text) and not self._is_over:
            at = self._state(text, at)
        return self._events.take(), text[at:] if self._is_over else None

    def finish(self) -> list[Event]:
        """Say that the answer ends here; see `CallReader`."""
        if self._is_in_call:
            self._events.append(CallEnd(self._index, is_complete=False))
        left = "".join(self._raw) + "".join(self._argument) + self._rest.finish()
        self._events.say(left if left.strip(_SPACE) or not self._num_calls else "")
        return self._events.take()

    def _begin_call(self) -> None:
        self._is_in_call = False
        self._name = ""
        self._keys: set[str] = set()
        self._argument: list[str] = []  # of which no JSON is written as yet
        self._key = ""
        self._value: list[str] = []

    # --- the section ----------------------------------------------------------------------------
    def _read_bracket(self, text: str, at: int) -> int:
        if text[at] in _SPACE:
            return self._keep(text, at)
        if text[at] != "[":
            return self._give_up(at)
        self._state = self._read_name
        return self._keep(text, at)

    def _read_name(self, text: str, at: int) -> int:
        char = text[at]
        if char in _SPACE and not self._name:
            return self._keep(text, at)
        if char == "(" and self._name:
            return self._start_call(at)
        match = _NAME.match(text, at)
        if match is None or len(self._name) > MAX_NAME:
            if not self._name and self._num_calls and not self._syntax.is_list:
                self._state = self._read_end
                return at
            return self._give_up(at)
        self._name += match.group()
        self._raw.append(match.group())
        return match.end()

    def _start_call(self, at: int) -> int:
        if self._names is not None and self._name not in self._names:
            return self._give_up(at)
        self._raw = []
        self._is_in_call = True
        self._events.append(CallStart(self._index, self._name))
        self._state = self._read_key
        return at + 1

    def _end_call(self) -> None:
        text = "}" if self._keys else "{}"
        self._events += [CallArguments(self._index, text), CallEnd(self._index, is_complete=True)]
        self._index += 1
        self._num_calls += 1
        self._begin_call()
        self._state = self._read_between if self._syntax.is_list else self._read_name

    def _read_between(self, text: str, at: int) -> int:
        char = text[at]
        if char == "]":
            self._raw = []
            self._is_over = not self._end
            self._state = self._read_end
        elif char == ",":
            self._state = self._read_name
        elif char not in _SPACE:
            return self._drop(at)
        return self._keep(text, at) if char != "]" else at + 1

    def _read_end(self, text: str, at: int) -> int:
        """Behind the calls: the end marker, which may come in pieces."""
        so_far = ("".join(self._raw) + text[at:]).lstrip(_SPACE)
        if self._end and so_far.startswith(self._end):
            self._raw = []
            self._is_over = True
            return len(text) - (len(so_far) - len(self._end))
        if self._end.startswith(so_far):
            self._raw = [so_far]
            return len(text)
        held = len(so_far) - (len(text) - at)
        self._raw = [so_far[:held]] if held > 0 else []
        self._say_all()
        return self._drop(len(text) - len(so_far) if held < 0 else at)

    # --- arguments ------------------------------------------------------------------------------
    def _read_key(self, text: str, at: int) -> int:
        char = text[at]
        if char in _SPACE:
            return self._keep_argument(text, at)
        if char == ")" and not self._key:
            self._argument = []
            self._end_call()
            return at + 1
        if char == "=" and self._key and self._key not in self._keys:
            self._scanner = LiteralScanner()
            self._value = []
            self._state = self._read_value
            return self._keep_argument(text, at)
        match = _WORD.match(text, at)
        has_gap = bool(self._key) and self._argument[-1][-1:] in _SPACE
        if match is None or has_gap or len(self._key) > MAX_NAME:
            return self._break_off(at)
        self._key += match.group()
        self._argument.append(match.group())
        return match.end()

    def _read_value(self, text: str, at: int) -> int:
        end = self._scanner.feed(text, at)
        self._value.append(text[at:end])
        self._argument.append(text[at:end])
        if self._scanner.is_bad:
            return self._break_off(end)
        if not self._scanner.is_done:
            return end
        value = to_json("".join(self._value)) if text[end] in ",)" else None
        if value is None:
            return self._break_off(end)
        key = json.dumps(self._key, ensure_ascii=False)
        lead = ", " if self._keys else "{"
        self._events.append(CallArguments(self._index, f"{lead}{key}: {value}"))
        self._keys.add(self._key)
        self._key = ""
        self._argument = []
        self._state = self._read_key
        return end + 1 if text[end] == "," else end

    # --- what goes wrong ------------------------------------------------------------------------
    def _give_up(self, at: int) -> int:
        """What was read since the last call is none."""
        self._say_all()
        if self._num_calls:
            return self._drop(at)
        self._is_over = self.ended_as_text = True
        return at

    def _break_off(self, at: int) -> int:
        """The call ends here, incomplete."""
        self._events.append(CallEnd(self._index, is_complete=False))
        self._index += 1
        self._num_calls += 1
        self._raw = self._argument
        self._begin_call()
        self._say_all()
        return self._drop(at)

    def _drop(self, at: int) -> int:
        """From here to the end marker all is text."""
        self._say_all()
        self._is_over = self.ended_as_text = not self._end
        self._state = self._read_rest
        return at

    def _read_rest(self, text: str, at: int) -> int:
        shown, left = self._rest.feed(text[at:])
        self._events.say(shown)
        self._is_over = left is not None
        return len(text) - len(left or "")

    # --- text -----------------------------------------------------------------------------------
    def _keep(self, text: str, at: int) -> int:
        self._raw.append(text[at])
        return at + 1

    def _keep_argument(self, text: str, at: int) -> int:
        self._argument.append(text[at])
        return at + 1

    def _say_all(self) -> None:
        self._events.say("".join(self._raw))
        self._raw = []


def python_grammar(
    syntax: PythonCalls, tools: Sequence[Tool], least: int, most: int | None
) -> Node:
    """What forced calls look like, from the first marker to the last; values are JSON."""
    call = OneOf([_call_grammar(tool) for tool in tools])
    marker = syntax.start[0] if syntax.start else ""
    if not syntax.is_list:
        calls = repeat_calls(call, Text("\n"), least, most)
        return Seq([Text(marker), calls, Text(syntax.end)])
    calls = repeat_calls(call, Text(", "), least, most)
    return Seq([Text(marker + "["), calls, Text("]" + syntax.end)])


def _call_grammar(tool: Tool) -> Node:
    members = list_members(tool.parameters, tool.name)
    head, tail = Text(f"{tool.name}("), Text(")")
    if members.others is not None:
        value = Json(with_definitions(members.others, tool.parameters))
        free = Seq([Regex("[A-Za-z_][A-Za-z0-9_]{0,63}"), Text("="), value])
        return Seq([head, repeat_calls(free, Text(", "), 0, None), tail])
    if not members.known:
        return Seq([head, tail])
    # Those that must be there come first, so that a comma stands before each of the others.
    ordered = sorted(members.known, key=lambda each: not each.is_required)
    arguments = [_argument_grammar(each, tool) for each in ordered]
    num_required = sum(each.is_required for each in ordered)
    return Seq([head, list_arguments(arguments, ", ", num_required), tail])


def _argument_grammar(parameter: Parameter, tool: Tool) -> Node:
    if not _WORD.fullmatch(parameter.name):
        raise GrammarError(
            f"the parameter {parameter.name!r} of {tool.name!r} is no name in Python"
        )
    value = Json(with_definitions(parameter.schema, tool.parameters))
    return Seq([Text(f"{parameter.name}="), value])
