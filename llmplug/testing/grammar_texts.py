"""Texts that a grammar tree allows, as a hypothesis strategy: apart from any backend."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

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

_STRINGS = st.text(st.sampled_from('ab {}[]<>"\\\n,:é✓'), max_size=6)


class NotSampled(Exception):
    """A tree holds a part of which no texts can be made here."""


def texts_of(node: Node) -> st.SearchStrategy[str]:
    """Return a strategy for texts that fit a tree.

    Raises:
        NotSampled: it holds Lark.
    """
    match node:
        case Text(text):
            texts = st.just(text)
        case Regex(pattern):
            texts = st.from_regex(pattern, fullmatch=True)
        case Json(schema):
            styles = st.sampled_from([(", ", ": "), (",", ":"), (" , ", " :\n")])
            texts = st.builds(_write, values_of(schema), styles, st.booleans())
        case Seq(items):
            texts = st.tuples(*map(texts_of, items)).map("".join)
        case OneOf(items):
            texts = st.one_of(*map(texts_of, items))
        case Repeat(item, least, most):
            most = least + 2 if most is None else min(most, least + 2)
            texts = st.lists(texts_of(item), min_size=least, max_size=most).map("".join)
        case Until(marker):
            texts = _STRINGS.filter(lambda text: marker not in text).map(lambda t: t + marker)
        case Anything(without):
            texts = _STRINGS.filter(lambda text: not any(each in text for each in without))
        case Lark():
            raise NotSampled
    return texts


def _write(value: Any, separators: tuple[str, str], is_ascii: bool) -> str:
    return json.dumps(value, separators=separators, ensure_ascii=is_ascii)


def values_of(schema: Any) -> st.SearchStrategy[Any]:
    """Return values that fit a schema; only what parameters of tools mostly have is known."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "anyOf" in schema:
        return st.one_of(*map(values_of, schema["anyOf"]))
    if isinstance(schema.get("type"), list):
        return st.one_of(*(values_of({**schema, "type": kind}) for kind in schema["type"]))
    if schema.get("type") == "array":
        return st.lists(values_of(schema.get("items", {})), max_size=3)
    if schema.get("type") == "object":
        return _objects_of(schema)
    return _SIMPLE.get(schema.get("type"), st.sampled_from([None, True, 1, "x", [], {}]))


_SIMPLE: dict[str | None, st.SearchStrategy[Any]] = {
    "string": _STRINGS,
    "integer": st.integers(),
    "number": st.floats(allow_nan=False, allow_infinity=False),
    "boolean": st.booleans(),
    "null": st.none(),
}


def _objects_of(schema: Any) -> st.SearchStrategy[Any]:
    members = {key: values_of(each) for key, each in schema.get("properties", {}).items()}
    required = set(schema.get("required", ()))
    return st.fixed_dictionaries(
        {key: each for key, each in members.items() if key in required},
        optional={key: each for key, each in members.items() if key not in required},
    )
