"""Write the calls of MiniMax M3: the grammar of what `element_reader.py` reads.

Objects and lists are written as elements as far as their schemas say what stands in them; what
elements cannot be held to is written as JSON.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmplug import GrammarError
from llmplug.answer_parts import (
    list_members,
    repeat_calls,
    resolve,
    types_of,
    with_definitions,
    write_text,
)
from llmplug.grammar import Json, Node, OneOf, Repeat, Seq, Text
from llmplug_minimax.element_reader import MARK

if TYPE_CHECKING:
    from llmplug.dialect import Tool

MAX_DEPTH = 4  # of nested elements: what is deeper is written as JSON
_STRING, _ARRAY, _OBJECT = frozenset({"string"}), frozenset({"array"}), frozenset({"object"})
_OF_LISTS = frozenset({"type", "items", "minItems", "maxItems", "description", "title"})
_NAME = re.compile(r"[^\s<>/\]]+")


def write_calls(tools: Sequence[Tool], least: int, most: int | None) -> Node:
    """Calls, and the section that they stand in."""
    call = OneOf([_write_call(tool) for tool in tools])
    calls = repeat_calls(call, Text(""), least, most)
    return Seq([Text(f"{MARK}<tool_call>\n"), calls, Text(f"{MARK}</tool_call>")])


def _write_call(tool: Tool) -> Node:
    """One call; a schema that names no parameters gets none.

    Raises:
        GrammarError: the schema asks for what cannot be written so.
    """
    start = Text(f'{MARK}<invoke name="{tool.name}">')
    parameters = _write_members(tool.parameters, tool.parameters, tool.name, depth=0)
    return Seq([start, *parameters, Text(f"{MARK}</invoke>\n")])


def _write_members(
    schema: Mapping[str, Any], root: Mapping[str, Any], owner: str, *, depth: int
) -> Iterator[Node]:
    for each in list_members(schema, owner).known:
        element = _write_element(each.name, each.schema, root, depth=depth)
        yield element if each.is_required else Repeat(element, 0, 1)


def _write_element(name: str, schema: Any, root: Mapping[str, Any], *, depth: int) -> Node:
    if not _NAME.fullmatch(name):
        raise GrammarError(f"a parameter cannot be named {name[:80]!r} in this syntax")
    start, end = Text(f"{MARK}<{name}>"), f"{MARK}</{name}>"
    if types_of(schema, root) == _STRING:
        return Seq([start, write_text(schema, root, name, end=end)])
    try:
        content = _write_content(schema, root, name, depth=depth)
    except GrammarError:
        content = [Json(with_definitions(schema, root))]
    return Seq([start, *content, Text(end)])


def _write_content(schema: Any, root: Mapping[str, Any], name: str, *, depth: int) -> list[Node]:
    """What stands in an element that is no string.

    Raises:
        GrammarError: its schema cannot be followed with elements.
    """
    types, found = types_of(schema, root), resolve(schema, root)
    if depth < MAX_DEPTH and types == _OBJECT and found.get("properties"):
        return list(_write_members(found, root, name, depth=depth + 1))
    items = found.get("items") if isinstance(found, Mapping) else None
    if depth < MAX_DEPTH and types == _ARRAY and items and found.keys() <= _OF_LISTS:
        item = _write_element("item", items, root, depth=depth + 1)
        return [Repeat(item, found.get("minItems", 0), found.get("maxItems"))]
    raise GrammarError(f"{name!r} is written as JSON")
