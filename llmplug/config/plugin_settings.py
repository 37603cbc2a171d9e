"""`plugins.settings`: what a config says to plugins, checked once they are loaded.

Nobody but a plugin knows what it may be told, so a `Config` holds what was written. Each process
reads it with the plugin's own model, as JSON: so it means the same in all of them.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from llmplug.config.complaint import complain
from llmplug.config.document import PLUGIN_SETTINGS, Document
from llmplug.did_you_mean import did_you_mean
from llmplug.errors import ConfigError
from llmplug.plugin_report import State

if TYPE_CHECKING:
    from llmplug.config.fields import Config
    from llmplug.plugin_report import Found, Plugin, PluginReport


class PluginSettings:
    """Reads the settings of one config."""

    def __init__(self, config: Config) -> None:
        """Read nothing yet."""
        values = {"plugins": {"settings": config.plugins.settings}}
        self._document = Document("config", values, config._places).part(PLUGIN_SETTINGS)
        self._complaints: dict[str, str | None] = {}  # of each name that was read; None: well

    def read(self, found: Found, model: type[BaseModel]) -> BaseModel:
        """Return what the config says to a plugin; its defaults where that is nothing.

        Raises:
            ConfigError: something in it is wrong. `check` says it too.
        """
        names = [name for name in self._document.values if found.is_called(name)]
        if not names:
            return _validate({}, model)
        self._complaints[names[0]] = None
        try:
            return _read(self._document.part((names[0],)), model)
        except ConfigError as error:
            self._complaints[names[0]] = str(error)
            raise

    def check(self, report: PluginReport) -> None:
        """Refuse settings that are wrong, or that no loaded plugin takes.

        Raises:
            ConfigError: all of them.
        """
        complaints = [self._find_complaint(name, report) for name in self._document.values]
        lines = [line for line in complaints if line is not None]
        if lines:
            raise ConfigError("\n".join(lines))

    def _find_complaint(self, name: str, report: PluginReport) -> str | None:
        problem = self._find_problem(name, report)
        if problem is not None:
            return f"{self._document.locate((name,))}: {problem}"
        (plugin,) = report.called(name)
        if name not in self._complaints and plugin.settings is not None:
            with contextlib.suppress(ConfigError):  # loaded for another config; it is kept
                self.read(plugin.found, type(plugin.settings))
        return self._complaints[name]

    def _find_problem(self, name: str, report: PluginReport) -> str | None:
        """Say why nobody takes what stands under a name; None: a plugin does."""
        found = report.called(name)
        if not found:
            hint = did_you_mean(name, [plugin.found.name for plugin in report.plugins])
            return f"no plugin {name!r} is installed{hint}"
        if len(found) > 1:
            names = " or ".join(plugin.found.long_name for plugin in found)
            return f"two plugins are called {name!r}; write {names}"
        (plugin,) = found
        twins = [other for other in self._document.values if plugin.found.is_called(other)]
        if name != twins[0]:
            return f"the settings of {plugin.found.long_name} stand under {twins[0]!r} already"
        if self._complaints.get(name) is not None:
            return None
        return _explain_absence(plugin)


def _explain_absence(plugin: Plugin) -> str | None:
    """Say why a plugin takes no settings; None: it does."""
    if plugin.state is State.BLOCKED:
        return f"{plugin}; take it out of plugins.block, or leave its settings out"
    if plugin.state is not State.OK:
        return f"{plugin}; mend it, or leave its settings out"
    if plugin.settings is None:
        return f"the plugin {plugin.found.name!r} has no settings; leave them out"
    return None


def _read(document: Document, model: type[BaseModel]) -> BaseModel:
    document.expand_secrets(model)
    try:
        return _validate(document.values, model)
    except ValidationError as error:
        # Not chained: the original shows input values, secrets included.
        raise complain(error, document, model) from None


def _validate(values: Any, model: type[BaseModel]) -> BaseModel:
    return model.model_validate_json(json.dumps(values), extra="forbid")
