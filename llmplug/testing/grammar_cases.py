"""Grammars that every backend is tried on, with texts that fit and texts that do not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmplug.grammar import (
    Anything,
    Json,
    Lark,
    Node,
    OneOf,
    Regex,
    Repeat,
    Seq,
    Text,
    Until,
)


@dataclass(frozen=True)
class Case:
    """A grammar with texts; `keywords` are those of JSON schema that it shows."""

    node: Node
    fits: tuple[str, ...]
    breaks: tuple[str, ...]
    keywords: tuple[str, ...] = ()

    @property
    def texts(self) -> dict[str, bool]:
        """Whether each text is a whole answer."""
        return {**dict.fromkeys(self.fits, True), **dict.fromkeys(self.breaks, False)}

    def __str__(self) -> str:
        return "+".join(self.keywords) or type(self.node).__name__


def _json(keywords: str, schema: Any, fits: list[str], breaks: list[str]) -> Case:
    return Case(Json(schema), tuple(fits), tuple(breaks), tuple(keywords.split()))


_PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
_LINK = {"anyOf": [{"$ref": "#/$defs/link"}, {"type": "null"}]}
_LIST = {
    "$ref": "#/$defs/link",
    "$defs": {
        "link": {
            "type": "object",
            "properties": {"value": {"type": "integer"}, "next": _LINK},
            "required": ["value", "next"],
            "additionalProperties": False,
        }
    },
}
# What OpenAI's strict mode documents, and every bundled backend follows.
STRICT = [
    _json(
        "type properties required additionalProperties",
        _PERSON,
        ['{"name": "A", "age": 3}', '{"name": "é\\n", "age": -1}'],
        [
            "{}",
            '{"name": "A"}',
            '{"age": 3, "name": "A"}',
            '{"name": "A", "age": 3.5}',
            '{"name": "A", "age": 3, "more": 1}',
            '{"name": "A", "age": 3',
            '{"name": "A", "age": 3} ',
        ],
    ),
    _json("type", {"type": "boolean"}, ["true", "false"], ["True", "1", '"true"']),
    _json("type", {"type": "number"}, ["1", "-2.5", "1e9"], ["01", "1.", "+1", "NaN"]),
    _json("type", {"type": ["integer", "null"]}, ["1", "null"], ["1.5", '"1"']),
    _json("type", {"type": "string"}, ['"a b"', '"\\""', '"é"'], ['"a', '"\\x"', '"\n"', "a"]),
    _json("enum", {"enum": ["a", 1, None]}, ['"a"', "1", "null"], ['"b"', "2", "a"]),
    _json("const", {"const": "x"}, ['"x"'], ['"y"', "x"]),
    _json("anyOf", {"anyOf": [{"type": "integer"}, {"const": "x"}]}, ["1", '"x"'], ["1.5"]),
    _json(
        "$ref $defs", _LIST, ['{"value": 1, "next": {"value": 2, "next": null}}'], ['{"value": 1}']
    ),
    _json(
        "items minItems maxItems",
        {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2},
        ["[1]", "[1, 2]"],
        ["[]", "[1, 2, 3]", '["a"]', "[1,]"],
    ),
    _json(
        "pattern", {"type": "string", "pattern": "^@[a-z]+$"}, ['"@ab"'], ['"ab"', '"@"', '"@1"']
    ),
    _json("format", {"type": "string", "format": "date"}, ['"2026-01-31"'], ['"2026-1-1"', '"x"']),
    _json("format", {"type": "string", "format": "time"}, ['"12:30:00Z"'], ['"12"']),
    _json("format", {"type": "string", "format": "date-time"}, ['"2026-01-31T12:30:00Z"'], ['"x"']),
    _json("format", {"type": "string", "format": "duration"}, ['"P1DT2H"'], ['"1D"']),
    _json("format", {"type": "string", "format": "email"}, ['"a@b.cd"'], ['"ab"']),
    _json("format", {"type": "string", "format": "hostname"}, ['"a.example"'], ['"a b"']),
    _json(
        "format", {"type": "string", "format": "ipv4"}, ['"10.0.0.1"'], ['"10.0.0"', '"999.0.0.1"']
    ),
    _json("format", {"type": "string", "format": "ipv6"}, ['"::1"'], ['"x"']),
    _json(
        "format",
        {"type": "string", "format": "uuid"},
        ['"123e4567-e89b-12d3-a456-426614174000"'],
        ['"123"'],
    ),
    _json(
        "minimum maximum",
        {"type": "integer", "minimum": 3, "maximum": 12},
        ["3", "12"],
        ["2", "13", "31"],
    ),
    _json(
        "exclusiveMinimum exclusiveMaximum",
        {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 6},
        ["4", "5"],
        ["3", "6"],
    ),
]
# Further keywords; a backend that does not follow one refuses it by name.
FURTHER = [
    _json("multipleOf", {"type": "integer", "multipleOf": 3}, ["3", "12"], ["4", "13"]),
    _json(
        "minLength maxLength",
        {"type": "string", "minLength": 2, "maxLength": 3},
        ['"ab"', '"éé"', '"abc"'],
        ['"a"', '"abcd"'],
    ),
    _json(
        "allOf",
        {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 5}]},
        ["3", "5"],
        ["2", "6"],
    ),
    _json("oneOf", {"oneOf": [{"type": "integer"}, {"type": "string"}]}, ["1", '"a"'], ["null"]),
    _json(
        "patternProperties",
        {
            "type": "object",
            "patternProperties": {"^x": {"type": "integer"}},
            "additionalProperties": False,
        },
        ['{"x1": 1}', "{}"],
        ['{"x1": "a"}', '{"y": 1}'],
    ),
    _json("minProperties", {"type": "object", "minProperties": 1}, ['{"a": 1}'], ["{}"]),
    _json(
        "maxProperties",
        {"type": "object", "maxProperties": 1},
        ["{}", '{"a": 1}'],
        ['{"a": 1, "b": 2}'],
    ),
    _json(
        "prefixItems",
        {"type": "array", "prefixItems": [{"type": "integer"}], "items": False, "minItems": 1},
        ["[1]"],
        ["[]", '["a"]', "[1, 2]"],
    ),
    _json(
        "additionalItems",
        {
            "type": "array",
            "items": [{"type": "integer"}],
            "additionalItems": {"type": "null"},
            "minItems": 2,
        },
        ["[1, null]"],
        ["[1, 1]", "[null, null]"],
    ),
]
TREES = [
    Case(Text("yes"), ("yes",), ("", "ye", "no", "yesx")),
    Case(OneOf([Text("a"), Text("ab"), Text("é")]), ("a", "ab", "é"), ("b", "abc", "")),
    Case(Regex(r"\d{3}-[ab]+"), ("123-ab",), ("12-a", "123-", "x123-a")),
    Case(Regex("a|"), ("a", ""), ("aa",)),
    Case(Regex("a/b\\/c\\n"), ("a/b/c\n",), ("a/b/c",)),
    Case(
        Seq([Text("<call>"), Json(_PERSON), Text("</call>")]),
        ('<call>{"name": "A", "age": 3}</call>',),
        ('{"name": "A", "age": 3}', '<call>{"name": "A", "age": 3}'),
    ),
    Case(
        Seq([Text("a"), Repeat(Seq([Text(", "), Regex("[bc]")]), 0, 2)]),
        ("a", "a, b", "a, b, c"),
        ("", "a, ", "a, b, c, b"),
    ),
    Case(Repeat(Text("ab"), 2), ("abab", "ababab"), ("ab", "aba")),
    Case(
        Seq([Repeat(Regex("[ \n]"), 0, 4), Json({"type": "integer"})]), ("7", " \n7"), ("     7",)
    ),
    Case(
        Seq([Until("</call>"), Text("x")]),
        ("thinking </call>x", "</call>x", "a</cal</call>x"),
        ("x", "a</call>", "<call></call>x", "a</call>y"),
    ),
    Case(Seq([Until("END"), Regex("[ab]")]), ("text ENDa", "ENDb"), ("text a", "END", "ENDaENDb")),
    Case(Anything(), ("", "any\ntext <b>"), ("a<call>", "a</call>b")),
    Case(Anything(without=["[CALL]"]), ("", "[CALL", "text"), ("a [CALL] b", "[CALL]")),
    Case(
        OneOf([Anything(without=["[C]"]), Seq([Until("[C]"), Text("1")])]),
        ("free", "free [C]1", ""),
        ("free [C]", "free [C]2"),
    ),
]
LARK = [
    Case(Lark('start: "a" b+\nb: /[0-9]/ | "(" b ")"'), ("a1", "a(1)2"), ("a", "a(1", "b1")),
    Case(Seq([Text("<call>"), Lark('start: "x"'), Text("</call>")]), ("<call>x</call>",), ("x",)),
]
# Each is refused with words that match a pattern: they name what is wrong.
REFUSED: list[tuple[Node, str]] = [
    (Json({"type": "array", "uniqueItems": True}), "uniqueItems"),
    (Json({"type": "object", "propertyNames": {"pattern": "a"}}), "propertyNames"),
    (Json({"properties": {"a": {"not": {"type": "null"}}}}), "'not' at 'properties/a'"),
    (Json({"if": {}, "then": {}}), "'if'"),
    (Json({"type": "array", "contains": {}}), "contains"),
    (Json({"type": "object", "dependentRequired": {"a": ["b"]}}), "dependentRequired"),
    (Json({"dependentSchemas": {"a": {}}}), "dependentSchemas"),
    (Json({"unevaluatedProperties": False}), "unevaluatedProperties"),
    (Json({"type": "integer", "nullable": True}), "nullable"),
    (Json({"$defs": {"a": {"minimun": 3}}, "$ref": "#/$defs/a"}), "'minimun' at '\\$defs/a'"),
    (Json({"type": "string", "contentEncoding": "base64"}), "contentEncoding"),
    (Json({"$dynamicRef": "#a"}), "dynamicRef"),
    (Json({"type": "string", "format": "unknown"}), "unknown"),
    (Json({"type": "string", "format": "telephone"}), "telephone"),
    (Json({"$ref": "https://example.com/schema.json"}), "example.com"),
    (Json({"$ref": "#/$defs/nowhere"}), "nowhere"),
    (Json({"type": "integer", "minimum": 5, "maximum": 3}), "(?i)minimum"),
    (Json(False), "false"),
    (Json({"type": "strin"}), "strin"),
    (Regex("(?=a)a"), "look"),
    (Regex(r"(a)\1"), "backreference"),
    (Regex("[["), "(?i)regex"),
]
