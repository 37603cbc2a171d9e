"""What pydantic found -> one ConfigError that says file, line, key and what was expected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmplug.config.document import dotted
from llmplug.config.shape import field_at, is_secret, known_keys
from llmplug.config.values import FieldProblem
from llmplug.did_you_mean import did_you_mean
from llmplug.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError
    from pydantic_core import ErrorDetails

    from llmplug.config.document import Document

_EXPECTED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "keys and values",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "greater_than_equal": "at least {ge}",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "less_than_equal": "at most {le}",
    "list_type": "a list",
    "literal_error": "one of {expected}",
    "model_type": "keys and values",
    "string_type": "text",
    "tuple_type": "a list",
}


def complain(error: ValidationError, document: Document, model: type[BaseModel]) -> ConfigError:
    """Put every problem in a line of its own, where the user wrote it.

    Args:
        model: which found it; it says what is known, and what is secret.
    """
    lines = [_describe(detail, document, model) for detail in error.errors(include_url=False)]
    return ConfigError("\n".join(lines))


def _describe(detail: ErrorDetails, document: Document, model: type[BaseModel]) -> str:
    path, kind, context = detail["loc"], detail["type"], detail.get("ctx", {})
    cause = context.get("error")
    if isinstance(cause, FieldProblem):
        path = (*path, *cause.path)
    place = document.place(path)
    if kind == "extra_forbidden":
        *above, word = path
        known = known_keys(model, tuple(above))
        hint = did_you_mean(str(word), known) or f"; known keys: {', '.join(known)}"
        return f"{place}: unknown key {word!r}{hint}"
    if kind == "missing":
        return f"{place}: missing key {dotted((*document.at, *path))!r}"
    start = document.locate(path)
    if cause is not None:
        return f"{start}: {cause}"
    expected = _EXPECTED.get(kind)
    if expected is None:
        return f"{start}: {detail['msg']}"
    # What no field is known of may be secret.
    is_shown = not path or (field_at(model, path) is not None and not is_secret(model, path))
    got = f", got {_show(detail['input'])}" if is_shown else ""
    return f"{start}: expected {expected.format_map(context)}{got}{_hint(kind, detail)}"


def _show(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, (dict, tuple)):
        return ("keys and values" if isinstance(value, dict) else "a list") if value else "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value!r:.60}" if isinstance(value, str) else str(value)


def _hint(kind: str, detail: ErrorDetails) -> str:
    is_plain = not isinstance(detail["input"], (dict, tuple, type(None)))
    return "; put it in quotes" if kind == "string_type" and is_plain else ""
