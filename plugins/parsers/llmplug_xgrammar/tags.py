"""Write a tree of `llmplug.grammar` as a structural tag of xgrammar.

Source: https://xgrammar.mlc.ai/docs/structural_tag/structural_tag.html
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from xgrammar import Grammar

from llmplug import GrammarError
from llmplug.grammar import Anything, Json, Lark, OneOf, Regex, Repeat, Seq, Text, Until
from llmplug.json_schema import check_keywords, walk_schema

if TYPE_CHECKING:
    from llmplug.grammar import Node, Vocabulary

Tag = dict[str, Any]

FOLLOWED = frozenset(
    {
        "$ref",
        "additionalProperties",
        "anyOf",
        "const",
        "enum",
        "exclusiveMaximum",
        "exclusiveMinimum",
        "format",
        "items",
        "maxItems",
        "maxLength",
        "maximum",
        "minItems",
        "minLength",
        "minimum",
        "pattern",
        "prefixItems",
        "properties",
        "required",
        "type",
    }
)
FORMATS = frozenset(
    {"date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid"}
)
# The library passes over these, or reads them as something else.
_NOT_REGULAR = re.compile(r"\(\?(?:[=!]|<[=!])|\\[bB1-9]")
_PADDING = 1  # characters of white space between the parts of JSON, at most


def write_tag(node: Node, vocabulary: Vocabulary) -> Tag:
    """Return a tree as a structural tag.

    Raises:
        GrammarError: a tree nested too deeply, or what the library would pass over.
    """
    try:
        return {"type": "structural_tag", "format": _write(node, vocabulary)}
    except RecursionError:
        raise GrammarError("the grammar is nested too deeply") from None


def _write(node: Node, vocabulary: Vocabulary) -> Tag:
    match node:
        case Seq(items):
            tag = _sequence([_write(item, vocabulary) for item in items])
        case OneOf(items):
            tag = {"type": "or", "elements": [_write(item, vocabulary) for item in items]}
        case Repeat(item, least, most):
            content = _write(item, vocabulary)
            most = -1 if most is None else most
            tag = {"type": "repeat", "min": least, "max": most, "content": content}
        case _:
            tag = _write_leaf(node, vocabulary)
    return tag


def _write_leaf(node: Text | Regex | Json | Lark | Until | Anything, vocabulary: Vocabulary) -> Tag:
    match node:
        case Text(text):
            tag = _sequence(_write_text(text, vocabulary))
        case Regex(pattern):
            tag = {"type": "regex", "pattern": _check_pattern(pattern).replace("\n", r"\n")}
        case Json(schema):
            tag = _write_json(schema)
        case Lark(source):
            tag = {"type": "grammar", "grammar": str(Grammar.from_lark(source))}
        case Until(marker):
            tag = _write_until(marker, vocabulary)
        case Anything(without):
            plain = [text for text in without if vocabulary.split(text) == [text]]
            tag = {"type": "any_text", "excludes": plain}
    return tag


def _write_text(text: str, vocabulary: Vocabulary) -> list[Tag]:
    return [
        {"type": "token", "token": piece}
        if isinstance(piece, int)
        else {"type": "const_string", "value": piece}
        for piece in vocabulary.split(text)
    ]


def _write_until(marker: str, vocabulary: Vocabulary) -> Tag:
    first, *rest = _write_text(marker, vocabulary)
    if first["type"] == "token":
        return _sequence([{"type": "any_text"}, first, *rest])
    free = {"type": "tag", "begin": "", "content": {"type": "any_text"}, "end": first["value"]}
    return _sequence([free, *rest])


def _write_json(schema: Any) -> Tag:
    if schema is False:
        raise GrammarError("no JSON fits the schema 'false'")
    check_keywords(schema, FOLLOWED)
    for place, each in walk_schema(schema):
        if not str(each.get("$ref", "#")).startswith("#"):
            raise GrammarError(f"the reference {each['$ref']!r} leads out of the schema")
        if isinstance(each.get("pattern"), str):
            _check_pattern(each["pattern"])
        if each.get("type") == "string" and each.get("format", "date") not in FORMATS:
            raise GrammarError(f"the format {each['format']!r} at '{place}' is not supported")
    return {"type": "json_schema", "json_schema": schema, "max_whitespace_cnt": _PADDING}


def _check_pattern(pattern: str) -> str:
    found = _NOT_REGULAR.search(pattern)
    if found:
        raise GrammarError(
            f"the regular expression {pattern[:80]!r} holds {found[0]!r}: lookarounds, word "
            "boundaries and backreferences are not supported"
        )
    return pattern


def _sequence(tags: list[Tag]) -> Tag:
    if len(tags) == 1:
        return tags[0]
    return {"type": "sequence", "elements": tags or [{"type": "const_string", "value": ""}]}
