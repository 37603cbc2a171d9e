"""Which JSON schemas are followed: llguidance passes over keywords that it does not know."""

from __future__ import annotations

import copy
from typing import Any

from llmplug import GrammarError
from llmplug.json_schema import check_keywords, drop_neutral, walk_schema

# Source: https://github.com/guidance-ai/llguidance/blob/main/docs/json_schema.md
FOLLOWED = frozenset(
    {
        "$ref",
        "additionalItems",
        "additionalProperties",
        "allOf",
        "anyOf",
        "const",
        "enum",
        "exclusiveMaximum",
        "exclusiveMinimum",
        "format",
        "items",
        "maxItems",
        "maxLength",
        "maxProperties",
        "maximum",
        "minItems",
        "minLength",
        "minProperties",
        "minimum",
        "multipleOf",
        "oneOf",
        "pattern",
        "patternProperties",
        "prefixItems",
        "properties",
        "required",
        "type",
    }
)
MAX_PROPERTIES = 5_000  # of all objects together; as many as OpenAI takes
# JSON on one line: where white space is free, small models fill answers with it.
_STYLE = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}


def prepare_schema(schema: Any) -> dict[str, Any]:
    """Return a schema as `%json` wants it: an object, with nothing that would be passed over.

    Raises:
        GrammarError: nothing fits it, or a keyword or format is not followed.
    """
    if schema is False:
        raise GrammarError("no JSON fits the schema 'false'")
    check_keywords(schema, FOLLOWED)
    num_properties = 0
    for place, each in walk_schema(schema):
        properties = each.get("properties")
        num_properties += len(properties) if isinstance(properties, dict) else 0
        if "x-guidance" in each:
            raise GrammarError("the keyword 'x-guidance' is not taken from requests")
        if each.get("format") == "unknown":  # the one name that the library lets pass
            raise GrammarError(f"the format 'unknown' at '{place}' is not supported")
    if num_properties > MAX_PROPERTIES:
        raise GrammarError(
            f"the schema has {num_properties} properties; at most {MAX_PROPERTIES} are taken"
        )
    prepared: dict[str, Any] = {} if schema is True else copy.deepcopy(schema)
    drop_neutral(prepared)
    return {**prepared, "x-guidance": _STYLE}
