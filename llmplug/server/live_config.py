"""Which values of a config take effect while the server runs, and which wait for a restart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import NoneType
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from llmplug.config import Config
from llmplug.errors import ConfigError

if TYPE_CHECKING:
    from llmplug.config import ModelConfig
    from llmplug.plugin_report import PluginReport

# The keys of each section that take effect at once.
SERVER_KEYS = (
    "api_keys",
    "api_keys_file",
    "auth",
    "drain_s",
    "max_body_bytes",
    "max_running_bytes",
    "max_waiting_requests",
    "reasoning_fields",
    "strict_fields",
)
MODEL_KEYS = (
    "aliases",
    "chat_template",
    "reasoning_parser",
    "tool_parser",
    "trust_request_templates",
)
LOG_KEYS = ("level", "requests")


def merge(running: Config, wanted: Config, report: PluginReport) -> Config:
    """Return the running config with what may change taken from the wanted one.

    Args:
        report: of the plugins that run: what engines have loaded keeps its settings.

    Raises:
        ConfigError: the two do not go together.
    """
    models = {model.name: model for model in wanted.models}
    merged = {
        "server": _take(running.server, wanted.server, SERVER_KEYS),
        "models": tuple(
            _take(model, models.get(model.name, model), MODEL_KEYS) for model in running.models
        ),
        "plugins": {
            **running.plugins.model_dump(),
            "settings": _merge_settings(running, wanted, report),
        },
        "log": _take(running.log, wanted.log, LOG_KEYS),
        "deploy": running.deploy.model_dump(),  # `llmplug deploy` looks at it, no server does
    }
    try:
        config = Config.model_validate(merged)
    except ValidationError as error:
        problems = "; ".join(problem["msg"] for problem in error.errors(include_input=False))
        raise ConfigError(
            f"what may change does not go with what needs a restart: {problems}"
        ) from None
    config._places = wanted._places  # of all that can be wrong now
    return config


def _merge_settings(running: Config, wanted: Config, report: PluginReport) -> dict[str, Any]:
    def is_fixed(name: str) -> bool:
        return any(plugin.has_engine_parts for plugin in report.called(name))

    kept = {name: each for name, each in running.plugins.settings.items() if is_fixed(name)}
    fresh = {name: each for name, each in wanted.plugins.settings.items() if not is_fixed(name)}
    return kept | fresh


def find_changes(before: Config, after: Config) -> list[str]:
    """Return the keys whose values differ, without the values: some are secret."""
    pairs = [("server", before.server, after.server), ("plugins", before.plugins, after.plugins)]
    pairs.append(("log", before.log, after.log))
    changes = [key for name, old, new in pairs for key in _compare(name, old, new)]
    if _names(before.models) != _names(after.models):
        return [*changes, "models"]
    for index, (old, new) in enumerate(zip(before.models, after.models, strict=True)):
        changes += _compare(f"models.{index}", old, new)
    return changes


def _take(running: BaseModel, wanted: BaseModel, keys: Iterable[str]) -> dict[str, Any]:
    return {**running.model_dump(), **wanted.model_dump(include=set(keys))}


def _compare(name: str, before: BaseModel, after: BaseModel) -> Iterator[str]:
    for key in type(before).model_fields:
        old, new = getattr(before, key), getattr(after, key)
        if isinstance(old, BaseModel) and isinstance(new, BaseModel):
            yield from _compare(f"{name}.{key}", old, new)
        else:
            yield from _compare_values(f"{name}.{key}", old, new)


def _compare_values(name: str, before: Any, after: Any) -> Iterator[str]:
    if {type(before), type(after)} <= {dict, NoneType}:
        old, new = before or {}, after or {}
        for key in sorted(old.keys() | new.keys()):
            yield from _compare_values(f"{name}.{key}", old.get(key), new.get(key))
    elif before != after:
        yield name


def _names(models: Iterable[ModelConfig]) -> list[str]:
    return [model.name for model in models]
