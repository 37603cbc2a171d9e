"""What a model says of a path in its values: the field there, its keys, whether it is secret."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, get_args, get_origin

from pydantic import BaseModel, Secret, SecretBytes, SecretStr

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from llmplug.config.values import Path


def field_at(model: type[BaseModel], path: Path) -> FieldInfo | None:
    """Return the field that a path leads to, through lists and mappings; None: there is none.

    Below a value that has no fields all belongs to it: keys of a mapping, members of a union.
    """
    section: type[BaseModel] | None = model
    field = None
    for part in path:
        if not isinstance(part, str):
            continue
        fields = {} if section is None else _fields_by_key(section)
        if part in fields:
            field = fields[part]
            section = _section_in(field)
        elif section is not None and not (field is not None and _has(field, Mapping)):
            return None
    return field


def known_keys(model: type[BaseModel], path: Path) -> list[str]:
    """Return the keys of the mapping at a path."""
    field = field_at(model, path)
    section = _section_in(field) if field else None if path else model
    return list(_fields_by_key(section)) if section else []


def is_secret(model: type[BaseModel], path: Path) -> bool:
    """Return whether the value at a path must not be shown."""
    field = field_at(model, path)
    if field is None:
        return False
    extra = field.json_schema_extra
    is_marked = isinstance(extra, dict) and extra.get("secret") is True
    return is_marked or (_has(field, Secret, SecretBytes, SecretStr) and not _section_in(field))


def _fields_by_key(section: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields under the names that values are given by."""
    return {field.alias or name: field for name, field in section.model_fields.items()}


def _section_in(field: FieldInfo) -> type[BaseModel] | None:
    return next((kind for kind in _list_types(field) if issubclass(kind, BaseModel)), None)


def _has(field: FieldInfo, *kinds: type) -> bool:
    return any(issubclass(kind, kinds) for kind in _list_types(field))


def _list_types(field: FieldInfo) -> Iterator[type]:
    """Yield the types in a field's annotation: of `list[str] | None` list, str and NoneType."""
    waiting: list[Any] = [field.annotation]
    while waiting:
        kind = waiting.pop(0)
        origin = get_origin(kind)
        waiting += get_args(kind)
        if isinstance(origin or kind, type):
            yield origin or kind
