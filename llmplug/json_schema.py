"""JSON schemas as data: find the schemas within a schema, and the keywords that nobody follows.

For grammar backends: most libraries pass over a keyword that they do not know, and an answer would
then not be what its request asked for. Draft 2020-12, and what older drafts and OpenAPI have beside
it. Source: https://json-schema.org/draft/2020-12/json-schema-validation
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from llmplug.errors import GrammarError

# Keywords that say nothing of which values fit. `x-...` are such, too.
ANNOTATIONS = frozenset(
    {
        "$schema",
        "$id",
        "$anchor",
        "$comment",
        "$defs",
        "definitions",
        "title",
        "description",
        "default",
        "example",
        "examples",
        "deprecated",
        "readOnly",
        "writeOnly",
        "discriminator",  # OpenAPI: which branch of a oneOf to look at first
        "externalDocs",
        "xml",
    }
)
# Keywords that say nothing while they have this value.
NEUTRAL = {"uniqueItems": False, "nullable": False}

_HOLD_SCHEMA = frozenset(
    {
        "additionalItems",
        "additionalProperties",
        "contains",
        "else",
        "if",
        "items",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)
_HOLD_LIST = frozenset({"allOf", "anyOf", "items", "oneOf", "prefixItems"})
_HOLD_NAMED = frozenset(
    {"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"}
)


def walk_schema(schema: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every schema within a schema, itself first, and where it stands: `properties/a`."""
    waiting = [("", schema)]
    while waiting:
        place, each = waiting.pop()
        if not isinstance(each, dict):
            continue
        yield place, each
        waiting.extend(reversed(list(_children(place, each))))


def check_keywords(schema: Any, known: Collection[str]) -> None:
    """Refuse a schema with a keyword that is neither followed nor an annotation.

    Args:
        known: the keywords that a backend follows.
    Raises:
        GrammarError: names the first such keyword, and where it stands.
    """
    for place, each in walk_schema(schema):
        for keyword, value in each.items():
            if keyword in known or keyword in ANNOTATIONS or keyword.startswith("x-"):
                continue
            if keyword in NEUTRAL and value is NEUTRAL[keyword]:
                continue
            where = f" at '{place}'" if place else ""
            raise GrammarError(f"the keyword '{keyword[:80]}'{where} is not supported")


def drop_neutral(schema: Any) -> None:
    """Remove from a schema, in place, the keywords that say nothing with the value they have."""
    for _, each in walk_schema(schema):
        for keyword, value in NEUTRAL.items():
            if each.get(keyword, not value) is value:
                del each[keyword]


def _children(place: str, schema: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    above = f"{place}/" if place else ""
    for keyword, value in schema.items():
        if keyword in _HOLD_SCHEMA and isinstance(value, dict):
            yield f"{above}{keyword}", value
        elif keyword in _HOLD_LIST and isinstance(value, list):
            yield from ((f"{above}{keyword}/{i}", each) for i, each in enumerate(value))
        elif keyword in _HOLD_NAMED and isinstance(value, dict):
            yield from ((f"{above}{keyword}/{name}", each) for name, each in value.items())
