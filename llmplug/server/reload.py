"""Read config, keys, templates and parsers again while requests run: all of it, or none.

Everything new is made and tried first, beside what serves: the config is checked, keys are read,
each model's template writes a conversation, and its dialect reads back what the template writes.
Then all of it is put in place; a request goes on with what it began with.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmplug import assemble
from llmplug.config import PluginSettings
from llmplug.errors import ConfigError, LlmplugError
from llmplug.generation_defaults import plan_chat
from llmplug.plugin_modules import find_changed, imported_anew, stamp_packages
from llmplug.server.auth import check_admin_key, open_key_ring
from llmplug.server.live_config import find_changes, merge

if TYPE_CHECKING:
    from sanic import Sanic

    from llmplug.chat.render import ChatRenderer
    from llmplug.config import Config, ModelConfig, ServerConfig
    from llmplug.plan import TextPlan
    from llmplug.plugin_report import PluginReport
    from llmplug.registry import Registry
    from llmplug.server.model_service import ModelService

log = logging.getLogger("llmplug.server")

_HELLO = ({"role": "user", "content": "Hello"},)


@dataclass(frozen=True, slots=True)
class Origin:
    """What a server was started with, and how it is read again."""

    config: Config
    read_config: Callable[[], Config]
    registry: Registry
    plans: Mapping[str, TextPlan]  # by name of the model


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a reload did: keys of the config, and plugins."""

    changed: tuple[str, ...] = ()
    needs_restart: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"reloaded: {', '.join(self.changed) or 'nothing has changed'}"
        if self.needs_restart:
            text += f"; needs a restart: {', '.join(self.needs_restart)}"
        return text


class Reloader:
    """Reloads one server, from any thread; one reload at a time."""

    def __init__(self, app: Sanic[Any, Any], origin: Origin | None = None) -> None:
        """Remember what runs.

        Args:
            origin: None: nothing but the file of keys is read again.
        """
        self._app = app
        self._origin = origin
        self._running = None if origin is None else origin.config
        self._registry = None if origin is None else origin.registry
        self._stamps = {} if origin is None else stamp_packages(origin.registry.report)
        self._lock = threading.Lock()

    def reload(self) -> Reloaded:
        """Read everything again.

        Raises:
            ConfigError: something new is wrong; nothing has changed.
        """
        with self._lock:
            try:
                done = self._reload()
            except LlmplugError as error:
                raise ConfigError(f"nothing was reloaded: {error}") from error
        log.info("%s", done)
        return done

    def reload_or_log(self) -> None:
        """Do as `reload`; what is wrong goes into the log."""
        try:
            self.reload()
        except ConfigError as error:
            log.error("%s", error)
        except Exception:
            log.exception("a reload failed")

    def _reload(self) -> Reloaded:
        origin, running, registry = self._origin, self._running, self._registry
        if origin is None or running is None or registry is None:
            self._app.ctx.keys.reload()
            return Reloaded()
        wanted = origin.read_config()
        config = merge(running, wanted, registry.report)
        keys = open_key_ring(config.server)
        check_admin_key(config.server.admin, keys)
        stale = find_changed(self._stamps, registry.report)
        stuck = {each.package for each in registry.report.plugins if each.has_engine_parts}
        with imported_anew(stale - stuck):
            fresh = assemble.load_registry(config)
            PluginSettings(wanted).check(fresh.report)
            _refuse_worse(registry.report, fresh.report)
            models = self._remake_models(config, fresh)
        changed = find_changes(running, config) + _compare_plugins(registry.report, fresh.report)
        stamps = stamp_packages(fresh.report)
        # From here on nothing can fail.
        self._app.ctx.keys.adopt(keys)
        apply_settings(self._app, config.server)
        self._app.ctx.service.replace(models)
        logging.getLogger().setLevel(config.log.level.upper())
        self._app.ctx.logs_requests = config.log.requests
        self._running, self._registry = config, fresh
        # What an engine has loaded stays as it was read: it is named until the restart.
        self._stamps = stamps | {name: self._stamps[name] for name in stale & stuck}
        return Reloaded(
            changed=(*changed, *(f"plugin package {name}" for name in sorted(stale - stuck))),
            needs_restart=(
                *find_changes(config, wanted),
                *(f"plugin package {name}" for name in sorted(stale & stuck)),
            ),
        )

    def _remake_models(self, config: Config, registry: Registry) -> list[ModelService]:
        """Make every model's text side anew, and try it.

        Raises:
            LlmplugError: why one cannot be.
        """
        service = self._app.ctx.service
        wanted = {model.name: model for model in config.models}
        plans = {} if self._origin is None else self._origin.plans
        return [
            _remake_model(model, wanted[model.name], plans[model.name], registry)
            for model in service.models
        ]


def apply_settings(app: Sanic[Any, Any], settings: ServerConfig) -> None:
    """Put in place what of a server's config may change while it runs, but for keys."""
    app.config.REQUEST_MAX_SIZE = settings.max_body_bytes  # of connections that come from now on
    app.ctx.admission.max_waiting = settings.max_waiting_requests
    app.ctx.admission.max_bytes = settings.max_running_bytes
    app.ctx.strict_fields = settings.strict_fields
    app.ctx.reasoning_names = settings.reasoning_fields
    app.ctx.drain_s = settings.drain_s


def _remake_model(
    model: ModelService, wanted: ModelConfig, plan: TextPlan, registry: Registry
) -> ModelService:
    chat = plan_chat(wanted, plan.files, plan.tokenizer, registry, [])
    if chat.end_ids != plan.rules.end_ids:
        raise ConfigError(
            f"{model.name}: answers would end with the tokens {sorted(chat.end_ids)}, and its "
            f"engine stops at {sorted(plan.rules.end_ids)}: that needs a restart"
        )
    if chat.renderer is not None:
        _try_template(model.name, chat.renderer)
    worse = [each for each in chat.dialect.problems if each not in model.dialect.problems]
    if worse:
        raise ConfigError(f"{model.name}: {'; '.join(worse)}")
    return model.with_chat(
        chat.renderer,
        chat.dialect,
        aliases=wanted.aliases,
        trusts_templates=wanted.trust_request_templates,
    )


def _try_template(name: str, renderer: ChatRenderer) -> None:
    try:
        ids = renderer.render(_HELLO)
    except LlmplugError as error:
        raise ConfigError(f"{name}: the chat template cannot write 'Hello': {error}") from error
    if not ids:
        raise ConfigError(f"{name}: the chat template makes nothing of 'Hello'")


def _refuse_worse(before: PluginReport, after: PluginReport) -> None:
    known = {plugin.found.long_name for plugin in before.problems}
    for plugin in after.problems:
        if plugin.found.long_name not in known:
            raise ConfigError(str(plugin))


def _compare_plugins(before: PluginReport, after: PluginReport) -> list[str]:
    """Name the plugins that were installed, removed, or have another version."""
    old, new = (
        {(plugin.found.long_name, plugin.found.version) for plugin in report.plugins}
        for report in (before, after)
    )
    return [f"plugin {name}" for name in sorted({name for name, _ in old ^ new})]
