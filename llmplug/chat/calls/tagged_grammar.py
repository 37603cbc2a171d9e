"""Calls whose parameters stand in tags, written: the grammar of what `tagged_calls.py` reads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from llmplug.answer_parts.parameter_types import list_members, types_of, with_definitions
from llmplug.answer_parts.writing import repeat_calls, write_text
from llmplug.grammar import Json, Node, OneOf, Regex, Repeat, Seq, Text, Until

if TYPE_CHECKING:
    from llmplug.dialect import TaggedCalls, Tool

_BREAK = Repeat(Text("\n"), 0, 1)  # between tags
_STRING = frozenset({"string"})
_NULLABLE = frozenset({"string", "null"})


def tagged_grammar(
    syntax: TaggedCalls, tools: Sequence[Tool], least: int, most: int | None
) -> Node:
    """What forced calls look like: from the first marker to the last.

    Of strings `enum` and `const` are enforced, and a schema that asks more of one is refused; of
    other values the whole schema.
    """
    call: Node = OneOf([_call_grammar(syntax, tool) for tool in tools])
    if syntax.around is not None:
        call = Seq([Text(syntax.around[0]), call, Text(syntax.around[1])])
    if syntax.is_single:
        call = _in_section(syntax, call)
    calls = repeat_calls(call, _BREAK, least, most)
    return calls if syntax.is_single else _in_section(syntax, calls)


def _in_section(syntax: TaggedCalls, calls: Node) -> Node:
    if syntax.section is None:
        return calls
    return Seq([Text(syntax.section[0]), _BREAK, calls, _BREAK, Text(syntax.section[1])])


def _call_grammar(syntax: TaggedCalls, tool: Tool) -> Node:
    head = Text(syntax.name[0] + tool.name + syntax.name[1])
    writer = _Writer(syntax, tool)
    parameters: list[Node] = [part for each in writer.write_all() for part in (_BREAK, each)]
    return Seq([head, *parameters, _BREAK, Text(syntax.end)])


class _Writer:
    """Writes the parameters of one tool."""

    def __init__(self, syntax: TaggedCalls, tool: Tool) -> None:
        self._syntax = syntax
        self._tool = tool
        self._ends = {kind: end for end, kind in syntax.key[1].items()}
        self._value_end = syntax.value[1].strip() or syntax.value[1]

    def write_all(self) -> Iterator[Node]:
        """Each parameter, in the schema's order."""
        members = list_members(self._tool.parameters, self._tool.name)
        for each in members.known:
            parameter = self._write(Text(each.name), each.schema, each.name)
            yield parameter if each.is_required else Repeat(parameter, 0, 1)
        if members.others is not None:
            key = Regex("[A-Za-z_][A-Za-z0-9_]{0,63}")
            yield Repeat(Seq([self._write(key, members.others, ""), _BREAK]), 0, None)

    def _write(self, key: Node, schema: Any, name: str) -> Node:
        """One parameter: its key, its value, and the markers round them."""
        types = types_of(schema, self._tool.parameters)
        is_text = types == _STRING or (
            types == _NULLABLE and "schema" in self._ends  # the word null is read as null
        )
        kinds = ("text", "schema", "json") if is_text else ("json", "schema", "text")
        end = next(self._ends[kind] for kind in kinds if kind in self._ends)
        opening: list[Node] = [_BREAK, Text(self._syntax.value[0])] if self._syntax.value[0] else []
        if is_text:
            value: Node = write_text(
                schema,
                self._tool.parameters,
                name,
                end=self._value_end,
                closing=self._closing,
                free=self._free_text(),
            )
        else:
            json = Json(with_definitions(schema, self._tool.parameters))
            value = Seq([json, Text(self._closing)])
        head = [Text(self._syntax.key[0]), key, Text(end), *opening, Text(self._syntax.pad)]
        return Seq([*head, value])

    def _free_text(self) -> Node:
        """Any string and what closes it; in quotes where it may look like one that is."""
        if self._syntax.quotes is None:
            return Until(self._value_end)
        start, end = self._syntax.quotes
        bare = Seq([Regex(f"[^{re.escape(start[0])}]"), Until(self._value_end)])
        quoted = Seq([Text(start), Until(end + self._value_end)])
        return OneOf([Text(self._value_end), bare, quoted])

    @property
    def _closing(self) -> str:
        return self._syntax.pad + self._syntax.value[1]
