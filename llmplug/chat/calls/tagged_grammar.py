"""Calls whose parameters stand in tags, written: the grammar of what `tagged_calls.py` reads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmplug.chat.calls.parameter_types import allowed_types
from llmplug.chat.calls.writing import repeat_calls
from llmplug.errors import GrammarError
from llmplug.grammar import Json, Node, OneOf, Regex, Repeat, Seq, Text, Until

if TYPE_CHECKING:
    from llmplug.dialect import TaggedCalls, Tool

_BREAK = Repeat(Text("\n"), 0, 1)  # between tags
_STRING = frozenset({"string"})


def tagged_grammar(
    syntax: TaggedCalls, tools: Sequence[Tool], least: int, most: int | None
) -> Node:
    """What forced calls look like: from the first marker to the last.

    Of strings `enum` and `const` are enforced, of other values the whole schema.
    """
    call: Node = OneOf([_call_grammar(syntax, tool) for tool in tools])
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
    parameters: list[Node] = [part for each in _parameters(syntax, tool) for part in (_BREAK, each)]
    return Seq([head, *parameters, _BREAK, Text(syntax.end)])


def _parameters(syntax: TaggedCalls, tool: Tool) -> Iterator[Node]:
    schema = tool.parameters
    for word in ("anyOf", "oneOf", "allOf", "$ref", "patternProperties", "not", "if"):
        if word in schema:
            raise GrammarError(f"{word!r} of the parameters of {tool.name!r} cannot be enforced")
    properties = schema.get("properties")
    if not isinstance(properties, Mapping) or not properties:
        yield Repeat(Seq([_free_parameter(syntax), _BREAK]), 0, None)
        return
    required = set(schema.get("required") or ())
    for key, each in properties.items():
        parameter = _parameter(syntax, tool, key, each)
        yield parameter if key in required else Repeat(parameter, 0, 1)


def _parameter(syntax: TaggedCalls, tool: Tool, key: str, schema: Any) -> Node:
    is_text = allowed_types(tool.parameters, key) == _STRING
    kinds = ("text", "schema", "json") if is_text else ("json", "schema", "text")
    ends = {kind: end for end, kind in syntax.key[1].items()}
    end = next(ends[kind] for kind in kinds if kind in ends)
    start = Text(syntax.key[0] + key + end)
    opening: list[Node] = [_BREAK, Text(syntax.value[0])] if syntax.value[0] else []
    closing = syntax.pad + syntax.value[1]
    if is_text:
        texts = _texts(schema)
        value: Node = _free_text(syntax)
        if texts is not None:
            value = OneOf([Text(text + closing) for text in texts])
        return Seq([start, *opening, Text(syntax.pad), value])
    shared = {
        word: tool.parameters[word] for word in ("$defs", "definitions") if word in tool.parameters
    }
    inner = {**schema, **shared} if isinstance(schema, Mapping) else schema
    return Seq([start, *opening, Text(syntax.pad), Json(inner), Text(closing)])


def _texts(schema: Any) -> list[str] | None:
    """The few texts that a string may be; None: any."""
    if "const" in schema:
        return [schema["const"]]
    return list(schema["enum"]) if isinstance(schema.get("enum"), list) else None


def _free_parameter(syntax: TaggedCalls) -> Node:
    end = next(iter(syntax.key[1]))
    opening: list[Node] = [_BREAK, Text(syntax.value[0])] if syntax.value[0] else []
    key = Seq([Text(syntax.key[0]), Regex("[A-Za-z_][A-Za-z0-9_]{0,63}"), Text(end)])
    return Seq([key, *opening, Text(syntax.pad), _free_text(syntax)])


def _free_text(syntax: TaggedCalls) -> Node:
    """Any string and what closes it; in quotes where it may look like one that is."""
    closing = syntax.pad + syntax.value[1]
    if syntax.quotes is None:
        return Until(closing)
    start, end = syntax.quotes
    bare = Seq([Regex(f"[^{re.escape(start[0])}]"), Until(closing)])
    return OneOf([Text(closing), bare, Seq([Text(start), Until(end + closing)])])
