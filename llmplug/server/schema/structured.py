"""What a request says of the form of its answer: `response_format` and `structured_outputs`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from llmplug.errors import InvalidRequest, UnsupportedParameter
from llmplug.grammar import Json, Lark, OneOf, Regex, Text

if TYPE_CHECKING:
    from llmplug.grammar import Node

MAX_CHOICES = 100_000
_FORMAT_FIELDS = frozenset({"type", "json_schema"})
_SCHEMA_FIELDS = frozenset({"name", "description", "schema", "strict"})


def read_structure(response_format: Any, structured_outputs: Any) -> tuple[Node | None, str]:
    """Return the form that the content must have, and the field that says so; None: any.

    Raises:
        InvalidRequest: the field is malformed, or both say something; `param` says where.
        UnsupportedParameter: a kind of form that is not served.
    """
    node = _read_format(response_format)
    other = _read_structured(structured_outputs)
    if node is not None and other is not None:
        raise InvalidRequest(
            "'response_format' and 'structured_outputs' exclude each other.",
            param="structured_outputs",
        )
    return (other, "structured_outputs") if other is not None else (node, "response_format")


def _read_format(value: Any) -> Node | None:
    if value is None:
        return None
    where = "response_format"
    _check_object(value, where, _FORMAT_FIELDS)
    kind = value.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return Json({"type": "object"})
    if kind != "json_schema":
        if isinstance(kind, str):
            raise UnsupportedParameter(
                f"'{where}.type' {kind[:40]!r} is not supported: use 'text', 'json_object' or "
                "'json_schema'.",
                param=f"{where}.type",
            )
        raise _invalid(f"{where}.type", "a string")
    described = value.get("json_schema")
    _check_object(described, f"{where}.json_schema", _SCHEMA_FIELDS)
    name = described.get("name")
    if not isinstance(name, str) or not name:
        raise _invalid(f"{where}.json_schema.name", "a string")
    for field, kinds, wanted in (
        ("description", str, "a string"),
        ("strict", bool, "true or false"),
    ):
        if described.get(field) is not None and not isinstance(described[field], kinds):
            raise _invalid(f"{where}.json_schema.{field}", wanted)
    schema = described.get("schema")
    return Json(
        {"type": "object"}
        if schema is None
        else _check_schema(schema, f"{where}.json_schema.schema")
    )


def _read_structured(value: Any) -> Node | None:
    if value is None:
        return None
    where = "structured_outputs"
    _check_object(value, where, frozenset(_FORMS))
    given = [name for name in _FORMS if value.get(name) is not None]
    if len(given) != 1:
        raise InvalidRequest(
            f"'{where}' must hold exactly one of {', '.join(_FORMS)}.", param=where
        )
    (name,) = given
    return _FORMS[name](value[name], f"{where}.{name}")


def _read_json(value: Any, where: str) -> Node:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"'{where}' is no JSON: {error}", param=where) from None
    return Json(_check_schema(value, where))


def _read_json_object(value: Any, where: str) -> Node:
    if value is not True:
        raise _invalid(where, "true")
    return Json({"type": "object"})


def _read_regex(value: Any, where: str) -> Node:
    return Regex(_check_text(value, where))


def _read_grammar(value: Any, where: str) -> Node:
    return Lark(_check_text(value, where))


def _read_choice(value: Any, where: str) -> Node:
    if not isinstance(value, list) or not value:
        raise _invalid(where, "a list of one string or more")
    if len(value) > MAX_CHOICES:
        raise InvalidRequest(
            f"'{where}' holds {len(value)} strings; at most {MAX_CHOICES} are taken.", param=where
        )
    texts = [_check_text(each, f"{where}[{i}]") for i, each in enumerate(value)]
    return OneOf([Text(text) for text in dict.fromkeys(texts)])


_FORMS: Mapping[str, Callable[[Any, str], Node]] = {
    "json": _read_json,
    "json_object": _read_json_object,
    "regex": _read_regex,
    "choice": _read_choice,
    "grammar": _read_grammar,
}


def _check_object(value: Any, where: str, known: frozenset[str]) -> None:
    if not isinstance(value, dict):
        raise _invalid(where, "an object")
    unknown = sorted(set(value) - known)
    if unknown:
        raise UnsupportedParameter(
            f"'{where}.{unknown[0]}' is not known; known are {', '.join(sorted(known))}.",
            param=f"{where}.{unknown[0]}",
        )


def _check_schema(value: Any, where: str) -> Any:
    if not isinstance(value, dict | bool):
        raise _invalid(where, "a JSON schema")
    return value


def _check_text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise _invalid(where, "a string that is not empty")
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise _invalid(where, "text: it holds half a character")
    return value


def _invalid(param: str, wanted: str) -> InvalidRequest:
    return InvalidRequest(f"'{param}' must be {wanted}.", param=param, code="invalid_type")
