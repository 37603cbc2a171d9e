"""What a schema says of one parameter, for syntaxes that write values without quotes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_DEPTH = 8  # of references and alternatives that are followed

_NAMES = frozenset({"string", "number", "integer", "boolean", "null", "object", "array"})


def allowed_types(parameters: Mapping[str, Any], name: str) -> frozenset[str] | None:
    """Return the JSON types that a parameter may have, `integer` beside `number`; None: unknown."""
    properties = parameters.get("properties")
    schema = properties.get(name) if isinstance(properties, Mapping) else None
    return _types_of(schema, parameters, MAX_DEPTH)


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


def _types_of(schema: Any, root: Mapping[str, Any], depth: int) -> frozenset[str] | None:
    if not isinstance(schema, Mapping) or not depth:
        return None
    kinds = schema.get("type")
    if kinds is not None:
        names = frozenset([kinds] if isinstance(kinds, str) else kinds) & _NAMES
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
