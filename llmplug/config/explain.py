"""Config -> rows that say where each value came from, YAML, JSON schema. No secret is shown."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmplug.config.document import dotted, write_document
from llmplug.config.fields import Config, is_secret
from llmplug.config.values import Section

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmplug.config.values import Path


@dataclass(frozen=True, slots=True)
class ExplainRow:
    """One value of a config."""

    key: str  # as --set takes it: "models.0.source"
    value: str  # as YAML takes it; a secret is not shown
    origin: str  # "config/x.yaml:12", "--set server.port", "default", ...


def explain(config: Config) -> list[ExplainRow]:
    """Return each value and where it came from, in the order of the schema."""
    values = config.model_dump()
    return [
        ExplainRow(dotted(path), _show(_value_at(values, path), path), _origin(config, path))
        for path in _leaves(config, ())
    ]


def schema() -> dict[str, Any]:
    """Return the JSON schema of a config file, with descriptions."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema()}


def dump_yaml(config: Config) -> str:
    """Write a config as YAML, defaults included; each secret becomes `${API_KEYS_0}`, ..."""
    return write_document(_plain(config.model_dump(), ()))


def _leaves(value: Any, path: Path) -> Iterator[Path]:
    """Yield the paths of all values that are no sections; a list of scalars is one value."""
    if isinstance(value, Section):
        for name in type(value).model_fields:
            yield from _leaves(getattr(value, name), (*path, name))
    elif isinstance(value, tuple) and value and isinstance(value[0], Section):
        for index, item in enumerate(value):
            yield from _leaves(item, (*path, index))
    else:
        yield path


def _value_at(values: Any, path: Path) -> Any:
    for part in path:
        values = values[part]
    return values


def _show(value: Any, path: Path) -> str:
    if is_secret(path) and value:
        return "(secret)"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _origin(config: Config, path: Path) -> str:
    if path in config._places:
        return config._places[path]
    if is_secret(path):  # a key that is written as plain text
        for length in range(len(path) - 1, 1, -1):
            if path[:length] in config._places:
                return config._places[path[:length]]
    is_derived = path[0] == "models" and path[2:] == ("name",)
    return "derived from source" if is_derived else "default"


def _plain(value: Any, path: Path) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item, (*path, key)) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item, (*path, index)) for index, item in enumerate(value)]
    if is_secret(path) and isinstance(value, str):
        name = "_".join(str(part) for part in path[1:]).upper()
        return f"${{{name}}}"
    return value
