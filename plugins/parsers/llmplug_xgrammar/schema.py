"""Which JSON schemas are followed: xgrammar passes over much that it does not know or combine."""

from __future__ import annotations

import re
from typing import Any

from llmplug import GrammarError
from llmplug.json_schema import check_keywords, walk_schema

# Each says alone what fits: whatever stands beside it is passed over.
_ALONE = frozenset({"$ref", "anyOf", "const", "enum"})
# What is followed of a schema with this type, and no other.
_OF_TYPE = {
    "object": frozenset({"additionalProperties", "properties", "required"}),
    "array": frozenset({"items", "maxItems", "minItems", "prefixItems"}),
    "string": frozenset({"format", "maxLength", "minLength", "pattern"}),
    "number": frozenset({"exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum"}),
}
_OF_TYPE["integer"] = _OF_TYPE["number"]
FOLLOWED = _ALONE.union({"type"}, *_OF_TYPE.values())
FORMATS = frozenset(
    {"date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid"}
)
_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
    "array": list,
    "object": dict,
}
_NOT_REGULAR = re.compile(r"\(\?(?:[=!]|<[=!])|\\[bB1-9]")


def check_schema(schema: Any) -> None:
    """Refuse a schema of which anything would be passed over.

    Raises:
        GrammarError: says what, and where it stands.
    """
    if schema is False:
        raise GrammarError("no JSON fits the schema 'false'")
    check_keywords(schema, FOLLOWED)
    for place, each in walk_schema(schema):
        problem = _find_problem(each)
        if problem:
            raise GrammarError(f"{problem}{f' at {place!r}' if place else ''} is not supported")


def check_pattern(pattern: str) -> None:
    """Refuse a regular expression that the library would read as something else.

    Raises:
        GrammarError: it holds a lookaround, a word boundary or a backreference.
    """
    found = _NOT_REGULAR.search(pattern)
    if found:
        raise GrammarError(
            f"the regular expression {pattern[:80]!r} holds {found[0]!r}: lookarounds, word "
            "boundaries and backreferences are not supported"
        )


def _find_problem(schema: dict[str, Any]) -> str:
    """What would be passed over, in words; "": nothing."""
    used = FOLLOWED & schema.keys()
    alone = sorted(used & _ALONE)
    if not str(schema.get("$ref", "#")).startswith("#"):
        return f"the reference {schema['$ref']!r} out of the schema"
    if alone:
        beside = sorted(used - {alone[0]} - _fitting_type(schema, alone[0]))
        return f"'{alone[0]}' beside '{beside[0]}'" if beside else ""
    kind = schema.get("type")
    stray = sorted(used - {"type"} - _OF_TYPE.get(kind if isinstance(kind, str) else "", set()))
    if stray:
        return f"'{stray[0]}' with the type {kind!r}"
    return _find_string_problem(schema) if kind == "string" else _find_required_problem(schema)


def _fitting_type(schema: dict[str, Any], keyword: str) -> set[str]:
    """`type`, where it says nothing that the listed values do not."""
    values = schema[keyword] if keyword == "enum" else [schema[keyword]]
    kind = schema.get("type")
    if (
        keyword not in {"const", "enum"}
        or not isinstance(kind, str)
        or not isinstance(values, list)
    ):
        return set()
    return {"type"} if all(isinstance(value, _TYPES.get(kind, ())) for value in values) else set()


def _find_string_problem(schema: dict[str, Any]) -> str:
    forms = [word for word in ("pattern", "format", "minLength", "maxLength") if word in schema]
    if len(forms) > 1 and forms != ["minLength", "maxLength"]:
        return f"'{forms[0]}' beside '{forms[1]}'"
    if isinstance(schema.get("pattern"), str):
        check_pattern(schema["pattern"])
    if schema.get("format", "date") not in FORMATS:
        return f"the format {schema['format']!r}"
    return ""


def _find_required_problem(schema: dict[str, Any]) -> str:
    required, properties = schema.get("required", []), schema.get("properties", {})
    if isinstance(required, list) and isinstance(properties, dict):
        unknown = [name for name in required if name not in properties]
        if unknown:
            return f"'required' of {unknown[0]!r}, which is none of the properties,"
    return ""
