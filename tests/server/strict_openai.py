"""Holds JSON against a type of the official client: all that it wants, and nothing beside it."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import BaseModel, TypeAdapter


def check_openai(value: Any, kind: Any) -> Any:
    """Validate JSON as `kind`, and return the model.

    The client itself builds its models from anything; here types are strict, required fields are
    required, and a field that the type does not know is an error.
    """
    model = _adapt(kind).validate_python(value, strict=True)
    unknown = list(_find_unknown(model, ""))
    assert not unknown, f"not fields of {kind}: {unknown}"
    return model


@cache  # it takes long to make one for a large union
def _adapt(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _find_unknown(value: Any, where: str) -> list[str]:
    if isinstance(value, BaseModel):
        found = [f"{where}.{name}" for name in value.model_extra or ()]
        for name in value.model_fields_set & type(value).model_fields.keys():
            found += _find_unknown(getattr(value, name), f"{where}.{name}")
        return found
    if isinstance(value, list):
        return [
            each for i, item in enumerate(value) for each in _find_unknown(item, f"{where}[{i}]")
        ]
    if isinstance(value, dict):
        return [
            each for key, item in value.items() for each in _find_unknown(item, f"{where}.{key}")
        ]
    return []
