"""Config -> rows that say where each value came from, YAML, JSON schema. No secret is shown.

Settings of plugins are told by those that are loaded: they alone know what there is.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from llmplug.config.document import PLUGIN_SETTINGS, dotted, is_variable, write_document
from llmplug.config.fields import Config
from llmplug.config.shape import field_at, is_secret

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from llmplug.config.values import Path
    from llmplug.plugin_report import Plugin


@dataclass(frozen=True, slots=True)
class ExplainRow:
    """One value of a config."""

    key: str  # as --set takes it: "models.0.source"
    value: str  # as YAML takes it; a secret is not shown
    origin: str  # "config/x.yaml:12", "--set server.port", "default", ...


def explain(config: Config, plugins: Sequence[Plugin] = ()) -> list[ExplainRow]:
    """Return each value and where it came from, in the order of the schema.

    Args:
        plugins: whose settings are told.
    """
    values = config.model_dump()
    rows: list[ExplainRow] = []
    for path in _leaves(config, ()):
        value = _value_at(values, path)
        if path == PLUGIN_SETTINGS and (plugins or not value):
            rows += [row for plugin in plugins for row in _explain_plugin(config, plugin)]
        else:
            shown = _show(value, is_secret(Config, path))
            rows.append(ExplainRow(dotted(path), shown, _origin(config, path)))
    return rows


def _explain_plugin(config: Config, plugin: Plugin) -> Iterator[ExplainRow]:
    settings = plugin.settings
    if settings is None or not plugin.is_loaded:
        return
    names = [name for name in config.plugins.settings if plugin.found.is_called(name)]
    at = (*PLUGIN_SETTINGS, *(names[:1] or [plugin.found.name]))
    values = settings.model_dump(mode="json", fallback=str)  # pydantic masks its own secrets
    for path in _leaves(settings, ()):
        shown = _show(_value_at(values, path), is_secret(type(settings), path))
        origin = config._places.get((*at, *path), "default")
        yield ExplainRow(dotted((*at, *path)), shown, origin)


def schema(plugins: Sequence[Plugin] | None = None) -> dict[str, Any]:
    """Return the JSON schema of a config file, with descriptions.

    Args:
        plugins: whose settings it describes, and no others; None: it takes any.
    """
    dialect = "https://json-schema.org/draft/2020-12/schema"
    whole = {"$schema": dialect, **Config.model_json_schema()}
    if plugins is None:
        return whole
    properties: dict[str, Any] = {}
    for plugin in plugins:
        if plugin.settings is not None and plugin.is_loaded:
            whole["$defs"] |= _settings_schemas(plugin.found.name, type(plugin.settings))
            for name in (plugin.found.name, plugin.found.long_name):
                properties[name] = {"$ref": f"#/$defs/{plugin.found.name}"}
    field = whole["$defs"]["PluginsConfig"]["properties"]["settings"]
    field |= {"properties": properties, "additionalProperties": False}
    return whole


def _settings_schemas(name: str, model: type[BaseModel]) -> dict[str, Any]:
    """Return the schema of a plugin's settings under its name, and those of its parts."""
    own = model.model_json_schema(ref_template=f"#/$defs/{name}.{{model}}")
    parts = {f"{name}.{part}": about for part, about in own.pop("$defs", {}).items()}
    return {**parts, name: {**own, "additionalProperties": False}}


def dump_yaml(config: Config, plugins: Sequence[Plugin] = ()) -> str:
    """Write a config as YAML, defaults included; each secret becomes `${API_KEYS_0_KEY}`, ...

    A secret is not shown to whoever wrote it either: a shell may have read it from a variable.

    Args:
        plugins: which know the secrets among their settings; all text for others is one.
    """
    models = {
        name: type(plugin.settings)
        for name in config.plugins.settings
        for plugin in plugins
        if plugin.found.is_called(name) and plugin.is_loaded and plugin.settings is not None
    }
    return write_document(_plain(config.model_dump(), (), models))


def _leaves(value: Any, path: Path) -> Iterator[Path]:
    """Yield the paths of all values that are no sections; a list of scalars is one value."""
    if isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            if not field.exclude:
                yield from _leaves(getattr(value, name), (*path, name))
    elif isinstance(value, tuple | list) and value and isinstance(value[0], BaseModel):
        for index, item in enumerate(value):
            yield from _leaves(item, (*path, index))
    else:
        yield path


def _value_at(values: Any, path: Path) -> Any:
    for part in path:
        values = values[part]
    return values


def _show(value: Any, is_hidden: bool) -> str:
    if is_hidden and value:
        return "(secret)"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _origin(config: Config, path: Path) -> str:
    if path in config._places:
        return config._places[path]
    if is_secret(Config, path):  # a key that is written as plain text
        for length in range(len(path) - 1, 1, -1):
            if path[:length] in config._places:
                return config._places[path[:length]]
    is_derived = path[0] == "models" and path[2:] == ("name",)
    return "derived from source" if is_derived else "default"


def _plain(value: Any, path: Path, models: Mapping[Any, type[BaseModel]]) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item, (*path, key), models) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, (*path, index), models) for index, item in enumerate(value)]
    if _is_hidden(path, models) and isinstance(value, str) and not is_variable(value):
        words = path if isinstance(path[1], int) else path[1:]  # no name begins with a digit
        name = "_".join(map(str, words)).upper()
        return f"${{{re.sub(r'[^A-Z0-9_]', '_', name)}}}"  # what a shell can set
    return value


def _is_hidden(path: Path, models: Mapping[Any, type[BaseModel]]) -> bool:
    """Return whether text at a path is a secret, or may be one.

    Args:
        models: of the settings of plugins, by the name that they stand under.
    """
    if path[:2] != PLUGIN_SETTINGS or path[2] not in models:
        return is_secret(Config, path)
    model, key = models[path[2]], path[3:]
    return field_at(model, key) is None or is_secret(model, key)  # None: perhaps by an alias
