"""The JSON schemas that others are made of."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

TEXT: Json = {"type": "string"}
TEXT_OR_NULL: Json = {"type": ["string", "null"]}
FLAG: Json = {"type": "boolean"}
COUNT: Json = {"type": "integer", "minimum": 0}
COUNT_OR_NULL: Json = {"type": ["integer", "null"], "minimum": 0}
NUMBER: Json = {"type": "number"}
NUMBER_OR_NULL: Json = {"type": ["number", "null"]}
NULL: Json = {"type": "null"}
# What clients, or other plugins, fill: anything.
ANY_OBJECT: Json = {"type": "object", "additionalProperties": True}


def make_object(required: Json, optional: Json | None = None) -> Json:
    """A JSON object with these properties."""
    return {
        "type": "object",
        "required": list(required),
        "properties": {**required, **(optional or {})},
    }


def make_list(item: Json) -> Json:
    """A list of these."""
    return {"type": "array", "items": item}


def make_map(value: Json) -> Json:
    """An object whose keys are data."""
    return {"type": "object", "additionalProperties": value}


def make_page(item: Json) -> Json:
    """One page of a list, as OpenAI cuts them."""
    return make_object(
        {
            "object": {"const": "list"},
            "data": make_list(item),
            "first_id": TEXT,
            "last_id": TEXT,
            "has_more": FLAG,
        }
    )


def make_deletion(kind: str) -> Json:
    """What is left of something that is forgotten."""
    return make_object({"id": TEXT, "object": {"const": kind}, "deleted": {"const": True}})


def or_null(schema: Json) -> Json:
    """This, or null."""
    return {"anyOf": [schema, NULL]}


IDS = make_list(COUNT)
METADATA = make_map(TEXT)
