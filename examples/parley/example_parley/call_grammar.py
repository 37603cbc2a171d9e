"""Write calls: the grammar that holds forced and strict calls to what `call_reader.py` reads."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from llmplug import GrammarError
from llmplug.answer_parts import list_members, repeat_calls, with_definitions
from llmplug.grammar import Json, Node, OneOf, Repeat, Seq, Text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llmplug.dialect import Tool

_KEY = re.compile(r"[^\s:](?:[^:\r\n]*[^\s:])?")


def write_calls(tools: Sequence[Tool], least: int, most: int | None) -> Node:
    """Between `least` and `most` calls of any of the tools, one a line."""
    call = OneOf([_write_call(tool) for tool in tools])
    return repeat_calls(call, Text("\n"), least, most)


def _write_call(tool: Tool) -> Node:
    return Seq([Text(f"<function:{tool.name}>\n"), *_write_lines(tool), Text("</function>")])


def _write_lines(tool: Tool) -> Iterator[Node]:
    """A line for each argument that the schema names, in its order; the optional may be left out.

    Raises:
        GrammarError: the schema asks for what lines cannot be held to.
    """
    for each in list_members(tool.parameters, tool.name).known:
        if not _KEY.fullmatch(each.name):
            raise GrammarError(f"a line of a call cannot begin with {each.name[:80]!r}")
        value = Json(with_definitions(each.schema, tool.parameters))
        line = Seq([Text(f"- {each.name}: "), value, Text("\n")])
        yield line if each.is_required else Repeat(line, 0, 1)
