"""What a schema says of one parameter, for syntaxes that write parameters one by one."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from llmplug.answer_parts.python_literals import to_json
from llmplug.errors import GrammarError
from llmplug.json_schema import ANNOTATIONS

MAX_DEPTH = 8  # of references and alternatives that are followed

_NAMES = frozenset({"string", "number", "integer", "boolean", "null", "object", "array"})

# Templates print these values of JSON as Python does.
_WORDS = {"True": "true", "False": "false", "None": "null"}
_SPACE = " \t\n\r"

_OF_OBJECTS = frozenset({"type", "properties", "required", "additionalProperties"})


@dataclass(frozen=True, slots=True)
class Parameter:
    """One of an object's members."""

    name: str
    schema: Any
    is_required: bool


@dataclass(frozen=True, slots=True)
class Members:
    """What an object may hold.

    Attributes:
        known: members by name, in the schema's order.
        others: schema of any other; None: there are none, or they are not asked for.
    """

    known: list[Parameter]
    others: Any


def list_members(schema: Mapping[str, Any], owner: str) -> Members:
    """Return what an object may hold, for grammars that write it one by one.

    Where members are listed no others are written, though a schema may allow them.

    Args:
        owner: whose parameters they are, for the message.
    Raises:
        GrammarError: the schema asks for what such a grammar cannot see to.
    """
    refuse_keywords(schema, _OF_OBJECTS, owner)
    kinds = schema.get("type", "object")
    if "object" not in ([kinds] if isinstance(kinds, str) else kinds):
        raise GrammarError(f"'type': the arguments of {owner!r} must be an object")
    properties = schema.get("properties")
    listed = properties if isinstance(properties, Mapping) else {}
    required = list(schema.get("required") or ())
    others = schema.get("additionalProperties", {})
    unlisted = {name: others for name in required if name not in listed}
    known = [
        Parameter(name, each, name in required) for name, each in {**listed, **unlisted}.items()
    ]
    if unlisted and others is False:
        raise GrammarError(f"'required' of {owner!r} asks for what it forbids")
    is_free = not known and properties is None and others is not False
    return Members(known, others if is_free else None)


def refuse_keywords(schema: Any, followed: Collection[str], owner: str) -> None:
    """Refuse a schema with a keyword that neither is followed nor only tells.

    Raises:
        GrammarError: names it.
    """
    for word in schema if isinstance(schema, Mapping) else ():
        if word not in followed and word not in ANNOTATIONS and not word.startswith("x-"):
            raise GrammarError(f"{word[:80]!r} of {owner!r} cannot be enforced in this syntax")


def with_definitions(schema: Any, root: Mapping[str, Any]) -> Any:
    """Return a part of a schema that can stand alone: with what its references point at."""
    if not isinstance(schema, Mapping):
        return schema
    return {**{word: root[word] for word in ("$defs", "definitions") if word in root}, **schema}


def allowed_types(parameters: Mapping[str, Any], name: str) -> frozenset[str] | None:
    """Return the JSON types that a parameter may have, `integer` beside `number`; None: unknown."""
    properties = parameters.get("properties")
    schema = properties.get(name) if isinstance(properties, Mapping) else None
    others = parameters.get("additionalProperties")
    return types_of(others if schema is None else schema, parameters)


def types_of(schema: Any, root: Mapping[str, Any]) -> frozenset[str] | None:
    """Return the JSON types that a schema allows, `integer` beside `number`; None: unknown."""
    return _types_of(schema, root, MAX_DEPTH)


def resolve(schema: Any, root: Mapping[str, Any]) -> Any:
    """Follow a schema's reference, if it is one, within the document."""
    for _ in range(MAX_DEPTH):
        if not isinstance(schema, Mapping) or not isinstance(schema.get("$ref"), str):
            return schema
        schema = _follow(schema["$ref"], root)
    return None


def type_of(value: Any) -> str:
    """Return the JSON type of a value; whole numbers are `integer`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, str):
        return "string"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return "integer"
    if isinstance(value, float):
        return "number"
    return "array" if isinstance(value, list) else "object"


def write_value(text: str, types: frozenset[str] | None, *, has_words: bool = True) -> str:
    """Write a value that stands without quotes as JSON: as it is, where that is JSON and allowed.

    Args:
        text: the value.
        types: that it may have, as of `allowed_types`.
        has_words: words of Python, such as `True`, may stand for those of JSON.
    """
    value = text.strip(_SPACE)
    has_words = has_words and (types is None or bool(types & {"boolean", "null"}))
    word = _WORDS.get(value, value) if has_words else value
    kind = _json_type(word)
    may_be_text = types is None or "string" in types
    if kind is not None and (types is None or kind in types or not may_be_text):
        return word
    if kind is None and not may_be_text:  # some templates print lists as Python does
        word = to_json(value) or ""
        if word:
            return word
    return json.dumps(text, ensure_ascii=False)


def _json_type(text: str) -> str | None:
    """Return the type of a JSON text; None: it is none."""
    try:
        return type_of(json.loads(text, parse_constant=_refuse))
    except (ValueError, RecursionError):
        return None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _types_of(schema: Any, root: Mapping[str, Any], depth: int) -> frozenset[str] | None:
    if not isinstance(schema, Mapping) or not depth:
        return None
    kinds = schema.get("type")
    if isinstance(kinds, str | list):
        listed = [kinds] if isinstance(kinds, str) else kinds
        names = frozenset(each for each in listed if isinstance(each, str)) & _NAMES
        return names | {"integer"} if "number" in names else names
    if "const" in schema or isinstance(schema.get("enum"), list):
        return frozenset(map(type_of, schema.get("enum", [schema.get("const")])))
    if isinstance(schema.get("$ref"), str):
        return _types_of(_follow(schema["$ref"], root), root, depth - 1)
    alternatives = schema.get("anyOf", schema.get("oneOf"))
    return _union(alternatives, root, depth - 1) if isinstance(alternatives, list) else None


def _union(schemas: list[Any], root: Mapping[str, Any], depth: int) -> frozenset[str] | None:
    found: frozenset[str] = frozenset()
    for schema in schemas:
        types = _types_of(schema, root, depth)
        if types is None:
            return None
        found |= types
    return found


def _follow(reference: str, root: Mapping[str, Any]) -> Any:
    """Follow a pointer within the document, such as `#/$defs/city`."""
    if not reference.startswith("#/"):
        return None
    place: Any = root
    for step in reference[2:].split("/"):
        key = step.replace("~1", "/").replace("~0", "~")
        place = place.get(key) if isinstance(place, Mapping) else None
    return place
