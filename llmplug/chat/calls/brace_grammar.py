"""Calls whose keys are bare words, written: the grammar of what `brace_calls.py` reads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmplug.answer_parts.parameter_types import Parameter, list_members, refuse_keywords, resolve
from llmplug.answer_parts.writing import list_arguments, repeat_calls
from llmplug.errors import GrammarError
from llmplug.grammar import Json, Node, OneOf, Regex, Seq, Text, Until

if TYPE_CHECKING:
    from llmplug.dialect import BraceCalls, Tool

MAX_DEPTH = 8  # of values within values: what is deeper is refused
_BARE_KEY = re.compile(r"[A-Za-z0-9_.\-$]+")
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
# What is followed of each type, beside `type`.
_FOLLOWED: Mapping[str, tuple[str, ...]] = {
    "string": (),
    "object": ("properties", "required", "additionalProperties"),
    "array": ("items", "minItems", "maxItems"),
    "number": _BOUNDS,
    "integer": _BOUNDS,
}


def brace_grammar(syntax: BraceCalls, tools: Sequence[Tool], least: int, most: int | None) -> Node:
    """What forced calls look like: from the first marker to the last.

    Of strings `enum` and `const` are enforced, of numbers the bounds, of arrays `items` and their
    number; a schema that asks more is refused.
    """
    calls: list[Node] = []
    for tool in tools:
        arguments = _Writer(syntax.quote, tool).write_object(tool.parameters, tool.name, 0)
        calls.append(Seq([Text(syntax.start + tool.name), arguments, Text(syntax.end)]))
    return repeat_calls(OneOf(calls), Text(""), least, most)


class _Writer:
    """Writes the values of one tool's arguments."""

    def __init__(self, quote: str, tool: Tool) -> None:
        self._quote = quote
        self._root = tool.parameters

    def write(self, schema: Any, name: str, depth: int) -> Node:
        """Any value that fits a schema."""
        if depth > MAX_DEPTH:
            raise GrammarError(f"{name!r} is nested too deeply for this syntax")
        schema = resolve(schema, self._root)
        if not isinstance(schema, Mapping) or not schema:
            return self._anything()
        if "enum" in schema or "const" in schema:
            refuse_keywords(schema, ("type", "enum", "const"), name)
            values = schema["enum"] if "enum" in schema else [schema["const"]]
            return OneOf([self._constant(value, name) for value in values])
        for word in ("anyOf", "oneOf"):
            if word in schema:
                refuse_keywords(schema, (word,), name)
                return OneOf([self.write(each, name, depth + 1) for each in schema[word]])
        kinds = schema.get("type", [])
        names = [kinds] if isinstance(kinds, str) else list(kinds)
        refuse_keywords(
            schema, {"type", *(word for kind in names for word in _FOLLOWED.get(kind, ()))}, name
        )
        if not names:
            return self._anything()
        return OneOf([self._typed(kind, schema, name, depth) for kind in names])

    def write_object(self, schema: Mapping[str, Any], name: str, depth: int) -> Node:
        """An object: those that must be there come first, so that commas stand between."""
        members = list_members(schema, name)
        if members.others is not None:
            key = Regex("[A-Za-z_][A-Za-z0-9_]{0,63}:")
            pair = Seq([key, self.write(members.others, name, depth + 1)])
            return Seq([Text("{"), repeat_calls(pair, Text(","), 0, None), Text("}")])
        if not members.known:
            return Text("{}")
        ordered = sorted(members.known, key=lambda each: not each.is_required)
        pairs = [self._pair(each, depth) for each in ordered]
        num_required = sum(each.is_required for each in ordered)
        return Seq([Text("{"), list_arguments(pairs, ",", num_required), Text("}")])

    def _pair(self, member: Parameter, depth: int) -> Node:
        is_bare = _BARE_KEY.fullmatch(member.name) is not None
        key = member.name if is_bare else self._quoted(member.name, member.name)
        return Seq([Text(f"{key}:"), self.write(member.schema, member.name, depth + 1)])

    def _typed(self, kind: str, schema: Mapping[str, Any], name: str, depth: int) -> Node:
        if kind == "string":
            return Seq([Text(self._quote), Until(self._quote)])
        if kind == "object":
            words = {"type": "object", **{w: schema[w] for w in _FOLLOWED[kind] if w in schema}}
            return self.write_object(words, name, depth)
        if kind == "array":
            item = self.write(schema.get("items", {}), name, depth + 1)
            least, most = schema.get("minItems", 0), schema.get("maxItems")
            if most == 0:
                return Text("[]")
            return Seq([Text("["), repeat_calls(item, Text(","), least, most), Text("]")])
        return Json({"type": kind, **{word: schema[word] for word in _BOUNDS if word in schema}})

    def _constant(self, value: Any, name: str) -> Node:
        if isinstance(value, str):
            return Text(self._quoted(value, name))
        if isinstance(value, list | dict):
            raise GrammarError(f"'enum' or 'const' of {name!r}: only plain values can be enforced")
        return Json({"const": value})

    def _quoted(self, text: str, name: str) -> str:
        if self._quote in text:
            raise GrammarError(f"{name!r} holds {self._quote!r}, which ends a string")
        return f"{self._quote}{text}{self._quote}"

    def _anything(self) -> Node:
        string = Seq([Text(self._quote), Until(self._quote)])
        return OneOf([string, Json({"type": ["number", "boolean", "null"]})])
