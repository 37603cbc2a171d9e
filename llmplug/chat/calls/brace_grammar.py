"""Calls whose keys are bare words, written: the grammar of what `brace_calls.py` reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmplug.chat.calls.parameter_types import resolve
from llmplug.chat.calls.writing import list_arguments, repeat_calls
from llmplug.errors import GrammarError
from llmplug.grammar import Json, Node, OneOf, Regex, Seq, Text, Until

if TYPE_CHECKING:
    from llmplug.dialect import BraceCalls, Tool

MAX_DEPTH = 8  # of values within values: what is deeper is refused
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")


def brace_grammar(syntax: BraceCalls, tools: Sequence[Tool], least: int, most: int | None) -> Node:
    """What forced calls look like: from the first marker to the last.

    Of strings `enum` and `const` are enforced, of numbers the bounds, of arrays `items`.
    """
    writer = _Writer(syntax.quote)
    calls = [
        Seq(
            [
                Text(syntax.start + tool.name),
                writer.write_object(tool.parameters, tool.parameters, 0),
                Text(syntax.end),
            ]
        )
        for tool in tools
    ]
    return repeat_calls(OneOf(list(calls)), Text(""), least, most)


class _Writer:
    def __init__(self, quote: str) -> None:
        self._quote = quote

    def write(self, schema: Any, root: Mapping[str, Any], depth: int) -> Node:
        """Any value that fits a schema."""
        if depth > MAX_DEPTH:
            raise GrammarError("a tool's parameters are nested too deeply for this model's syntax")
        schema = resolve(schema, root)
        if not isinstance(schema, Mapping):
            return self._anything()
        values = schema.get("enum", [schema["const"]] if "const" in schema else None)
        if values is not None:
            return OneOf([self._constant(value) for value in values])
        alternatives = schema.get("anyOf", schema.get("oneOf"))
        if alternatives is not None:
            return OneOf([self.write(each, root, depth + 1) for each in alternatives])
        kinds = schema.get("type")
        if kinds is None:
            return self._anything()
        names = [kinds] if isinstance(kinds, str) else list(kinds)
        return OneOf([self._typed(name, schema, root, depth) for name in names])

    def write_object(self, schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> Node:
        """An object: those that must be there come first, so that commas stand between."""
        properties = schema.get("properties")
        if not isinstance(properties, Mapping) or not properties:
            pair = Seq([Regex("[A-Za-z_][A-Za-z0-9_]{0,63}:"), self._anything()])
            return Seq([Text("{"), repeat_calls(pair, Text(","), 0, None), Text("}")])
        required = set(schema.get("required") or ()) & set(properties)
        names = sorted(properties, key=lambda name: name not in required)
        pairs: list[Node] = [
            Seq([Text(f"{name}:"), self.write(properties[name], root, depth + 1)]) for name in names
        ]
        return Seq([Text("{"), list_arguments(pairs, ",", len(required)), Text("}")])

    def _typed(
        self, name: str, schema: Mapping[str, Any], root: Mapping[str, Any], depth: int
    ) -> Node:
        if name == "string":
            return Seq([Text(self._quote), Until(self._quote)])
        if name == "object":
            return self.write_object(schema, root, depth)
        if name == "array":
            item = self.write(schema.get("items", {}), root, depth + 1)
            least, most = schema.get("minItems", 0), schema.get("maxItems")
            return Seq([Text("["), repeat_calls(item, Text(","), least, most), Text("]")])
        return Json({"type": name, **{word: schema[word] for word in _NUMBERS if word in schema}})

    def _constant(self, value: Any) -> Node:
        if isinstance(value, str):
            return Text(f"{self._quote}{value}{self._quote}")
        return Json({"const": value})

    def _anything(self) -> Node:
        string = Seq([Text(self._quote), Until(self._quote)])
        return OneOf([string, Json({"type": ["number", "boolean", "null"]})])
