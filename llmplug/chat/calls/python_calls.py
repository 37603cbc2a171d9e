"""Calls as Python writes them, read and written: `[f(a=1), g(b="x")]`, or one a line."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmplug.answer_parts.parameter_types import Parameter, list_members, with_definitions
from llmplug.answer_parts.python_literals import LiteralScanner, to_json
from llmplug.answer_parts.section_reader import SPACE, SectionReader
from llmplug.answer_parts.writing import list_arguments, repeat_calls
from llmplug.errors import GrammarError
from llmplug.grammar import Json, Node, OneOf, Regex, Seq, Text

if TYPE_CHECKING:
    from llmplug.dialect import Opening, PythonCalls, Tool

MAX_NAME = 256  # characters of a name: what is longer is none
_NAME = re.compile(r"[\w.\-]+")
_WORD = re.compile(r"\w+")


class PythonReader(SectionReader):
    """Reads a section of PythonCalls."""

    def __init__(self, syntax: PythonCalls, opening: Opening) -> None:
        state = self._read_bracket if syntax.is_list else self._read_name
        super().__init__(opening, syntax.end.strip() if opening.marker else "", state)
        self._syntax = syntax
        self._names = None if opening.marker else {tool.name for tool in opening.tools}
        self._scanner = LiteralScanner()
        self._begin_call()

    def _finish_call(self) -> None:
        self._raw = self._argument
        super()._finish_call()

    def _begin_call(self) -> None:
        self._name = ""
        self._keys: set[str] = set()
        self._argument: list[str] = []  # of which no JSON is written as yet
        self._key = ""
        self._value: list[str] = []

    # --- the section ----------------------------------------------------------------------------
    def _read_bracket(self, text: str) -> str:
        text = self._skip_space(text)
        if not text:
            return ""
        if text[0] != "[":
            return self._give_up(text)
        self._state = self._read_name
        return self._keep(text, 1)

    def _read_name(self, text: str) -> str:
        text = text if self._name else self._skip_space(text)
        if not text:
            return ""
        if text[0] == "(" and self._name:
            return self._open_call(text)
        match = _NAME.match(text)
        if match is None or len(self._name) > MAX_NAME:
            if not self._name and self._num_calls and not self._syntax.is_list:
                return self._close_section(text)
            return self._give_up(text)
        self._name += match.group()
        return self._keep(text, match.end())

    def _open_call(self, text: str) -> str:
        if self._names is not None and self._name not in self._names:
            return self._give_up(text)
        self._start_call(self._name)
        self._state = self._read_key
        return text[1:]

    def _close_call(self, text: str) -> str:
        self._argue("}" if self._keys else "{}")
        self._end_call()
        self._begin_call()
        self._state = self._read_between if self._syntax.is_list else self._read_name
        return text[1:]

    def _read_between(self, text: str) -> str:
        text = self._skip_space(text)
        if not text:
            return ""
        if text[0] == "]":
            return self._close_section(text[1:])
        if text[0] != ",":
            return self._give_up(text)
        self._state = self._read_name
        return self._keep(text, 1)

    def _close_section(self, text: str) -> str:
        """Behind the calls: white space there is nobody's."""
        self._raw = []
        self._is_over = not self._end
        self._state = self._read_end
        return text

    # --- arguments ------------------------------------------------------------------------------
    def _read_key(self, text: str) -> str:
        char = text[0]
        if char in SPACE:
            return self._keep_argument(text, 1)
        if char == ")" and not self._key:
            self._argument = []
            return self._close_call(text)
        if char == "=" and self._key and self._key not in self._keys:
            self._scanner = LiteralScanner()
            self._value = []
            self._state = self._read_value
            return self._keep_argument(text, 1)
        match = _WORD.match(text)
        has_gap = bool(self._key) and self._argument[-1][-1:] in SPACE
        if match is None or has_gap or len(self._key) > MAX_NAME:
            return self._break_off(text)
        self._key += match.group()
        return self._keep_argument(text, match.end())

    def _read_value(self, text: str) -> str:
        at = self._scanner.feed(text)
        self._value.append(text[:at])
        text = self._keep_argument(text, at)
        if self._scanner.is_bad:
            return self._break_off(text)
        if not self._scanner.is_done:
            return text
        value = to_json("".join(self._value)) if text[0] in ",)" else None
        if value is None:
            return self._break_off(text)
        key = json.dumps(self._key, ensure_ascii=False)
        self._argue(f"{', ' if self._keys else '{'}{key}: {value}")
        self._keys.add(self._key)
        self._key = ""
        self._argument = []
        self._state = self._read_key
        return text.removeprefix(",")

    def _break_off(self, text: str) -> str:
        """The call ends here, and what has been read of an argument is text."""
        self._raw = self._argument
        self._begin_call()
        return super()._break_off(text)

    # --- text -----------------------------------------------------------------------------------
    def _keep_argument(self, text: str, count: int) -> str:
        self._argument.append(text[:count])
        return text[count:]


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
