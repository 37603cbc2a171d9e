"""Bytes -> JSON -> checked fields, each error with OpenAI's words for where it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from pydantic import BaseModel, ValidationError

from llmplug.errors import InvalidRequest

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Schema = TypeVar("Schema", bound=BaseModel)


def read_json(body: bytes) -> dict[str, Any]:
    """Decode a JSON object.

    NaN, infinities, lone surrogates and nesting past the interpreter's limit are refused. Of
    duplicate keys the last one wins.

    Raises:
        InvalidRequest: the body is no JSON object.
    """
    try:
        fields = msgspec.json.decode(body)
    except RecursionError:
        raise _bad_json("it is nested too deeply") from None
    except UnicodeDecodeError:
        raise _bad_json("it is not UTF-8") from None
    except msgspec.DecodeError as error:
        raise _bad_json(str(error)) from None
    if not isinstance(fields, dict):
        raise InvalidRequest("The body must be a JSON object.", code="invalid_type")
    return fields


def _bad_json(reason: str) -> InvalidRequest:
    return InvalidRequest(f"The body cannot be read as JSON: {reason}.", code="invalid_json")


def check_fields(schema: type[Schema], fields: dict[str, Any]) -> Schema:
    """Validate `fields` against `schema`.

    Raises:
        InvalidRequest: the first field that is wrong, as `param`.
    """
    try:
        return schema.model_validate(fields)
    except ValidationError as error:
        raise _explain(error.errors(include_url=False)[0]) from None


def _explain(problem: ErrorDetails) -> InvalidRequest:
    param = write_path(problem["loc"])
    if problem["type"] == "missing":
        return InvalidRequest(
            f"'{param}' is required.", param=param, code="missing_required_parameter"
        )
    reason = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    is_type = problem["type"].endswith("_type")
    return InvalidRequest(
        f"'{param}' must be {reason}." if reason != problem["msg"] else f"'{param}': {reason}.",
        param=param,
        code="invalid_type" if is_type else "invalid_value",
    )


def write_path(location: Sequence[str | int]) -> str:
    """`("messages", 0, "content")` -> `messages[0].content`."""
    path = ""
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        else:
            path += f".{step}" if path else str(step)
    return path
