"""JSON schemas made strict: what they do not name is an error, however deep it stands."""

from __future__ import annotations

from typing import Any

import jsonschema

Json = dict[str, Any]
_SAME_PLACE = ("allOf", "anyOf", "oneOf")


class ClosedSchemas:
    """The schemas of a description of an API, closed.

    An object may hold what any of the schemas says that apply to it (`allOf` and its like); in a
    place where none says anything of properties it may hold what it likes.
    """

    def __init__(self, description: Json) -> None:
        self._schemas: Json = {
            name: _close_parts(schema)
            for name, schema in description["components"]["schemas"].items()
        }

    def check(self, value: Any, schema: Json) -> None:
        """Hold `value` against `schema`, which may refer to the others."""
        closed = {**_close(_close_parts(schema)), "components": {"schemas": self._schemas}}
        jsonschema.Draft202012Validator(closed).validate(value)


def _close(schema: Any) -> Any:
    """Close the schema of a place."""
    if not isinstance(schema, dict):
        return schema
    return {"allOf": [schema], "unevaluatedProperties": False}


def _close_parts(schema: Any) -> Any:
    """Close the places inside a schema, not yet its own."""
    if not isinstance(schema, dict):
        return schema
    closed = {key: value for key, value in schema.items() if key != "discriminator"}
    for key in _SAME_PLACE:
        if key in closed:
            closed[key] = [_close_parts(each) for each in closed[key]]
    if "properties" in closed:
        closed["properties"] = {
            name: _close(_close_parts(each)) for name, each in closed["properties"].items()
        }
    for key in ("items", "additionalProperties"):
        if isinstance(closed.get(key), dict):
            closed[key] = _close(_close_parts(closed[key]))
    says_nothing = not {"properties", "$ref", *_SAME_PLACE} & closed.keys()
    if closed.get("type", "object") == "object" and says_nothing:
        closed.setdefault("additionalProperties", True)
    if closed.pop("nullable", False):
        return {"anyOf": [closed, {"type": "null"}]}
    return closed
