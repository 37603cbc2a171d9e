"""What `llmplug.plugins` says about the installed plugins: one state each, printable, JSON-able."""

from __future__ import annotations

import enum
import hashlib
import json
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from importlib.metadata import EntryPoint

    from pydantic import BaseModel

# Kinds of offers that the process of an engine looks at.
ENGINE_KINDS = frozenset({"model_loaders", "models", "kernels", "samplers", "grammars"})


class State(enum.StrEnum):
    """What became of a plugin; every plugin has exactly one."""

    OK = "ok"
    BLOCKED = "blocked"  # the config says so; it was never imported
    BROKEN = "broken"  # it raised
    INCOMPATIBLE = "incompatible"  # it does not keep to the hooks of this llmplug
    CONFLICT = "conflict"  # it works, but a name of its is another plugin's; no part of it is used


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An entry point of the group, not yet imported."""

    name: str
    value: str  # "package.module" or "package.module:object"
    distribution: str
    version: str
    entry_point: EntryPoint = field(repr=False, compare=False)

    @property
    def long_name(self) -> str:
        """`distribution:name`, the name that is never ambiguous."""
        return f"{self.distribution}:{self.name}"

    @property
    def is_bundled(self) -> bool:
        """Whether it comes with llmplug itself."""
        return self.distribution == "llmplug"

    def is_called(self, name: str) -> bool:
        """Return whether a user who writes `name` may mean this plugin."""
        return name in {self.name, self.long_name}


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One spec that a plugin handed in."""

    kind: str  # the hook without its prefix: "samplers"
    name: str
    spec: Any
    claims: tuple[tuple[str, str], ...]  # (noun, name) that no other plugin may claim

    def __str__(self) -> str:
        return f"{noun_of(self.kind)} {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """A plugin after `load`, and its state after `check`."""

    found: Found
    state: State
    hooks: tuple[str, ...] = ()
    offers: tuple[Offer, ...] = ()
    settings: BaseModel | None = field(default=None, repr=False)  # None: it has none
    reason: str = ""
    file: str | None = None  # "path:line" that the reason is about
    exception: str | None = None  # name of its class
    traceback: str | None = field(default=None, repr=False)
    load_s: float = 0.0

    @property
    def is_loaded(self) -> bool:
        """Whether its offers are at hand."""
        return self.state is State.OK

    @property
    def is_problem(self) -> bool:
        """Whether somebody should look at it."""
        return self.state not in {State.OK, State.BLOCKED}

    @property
    def has_engine_parts(self) -> bool:
        """Whether it offers what the process of an engine loads."""
        return any(offer.kind in ENGINE_KINDS for offer in self.offers)

    @property
    def package(self) -> str:
        """The top-level package that it is imported from."""
        return self.found.value.partition(":")[0].partition(".")[0]

    @property
    def code(self) -> str | None:
        """The file or folder that the package is imported from; imports nothing."""
        try:
            spec = find_spec(self.package)
        except (ImportError, ValueError):
            return None
        if spec is None:
            return None
        folders = spec.submodule_search_locations
        return str(next(iter(folders))) if folders else spec.origin

    def __str__(self) -> str:
        found = self.found
        where = f" ({self.file})" if self.file else ""
        state = "in conflict" if self.state is State.CONFLICT else str(self.state)
        what = f"{state}: {self.reason}{where}" if self.reason else state
        return f"plugin {found.name!r} of {found.distribution} {found.version} is {what}"

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "name": self.found.name,
            "long_name": self.found.long_name,
            "value": self.found.value,
            "distribution": self.found.distribution,
            "version": self.found.version,
            "state": str(self.state),
            "hooks": list(self.hooks),
            "offers": [{"kind": offer.kind, "name": offer.name} for offer in self.offers],
            "settings": self._settings_as_json(),
            "reason": self.reason,
            "code": self.code,
            "file": self.file,
            "exception": self.exception,
            "traceback": self.traceback,
            "load_s": round(self.load_s, 6),
        }

    def _settings_as_json(self) -> Any:
        """Return the settings as plain values, secrets masked by pydantic; None: it has none."""
        if self.settings is None:
            return None
        return self.settings.model_dump(mode="json", fallback=str)


@dataclass(frozen=True, slots=True)
class PluginReport:
    """All plugins that were found, sorted by name."""

    plugins: tuple[Plugin, ...]

    @property
    def problems(self) -> tuple[Plugin, ...]:
        """Plugins that are broken, incompatible or in conflict."""
        return tuple(plugin for plugin in self.plugins if plugin.is_problem)

    def called(self, name: str) -> tuple[Plugin, ...]:
        """Return the plugins of this short or long name; more than one: it is ambiguous."""
        return tuple(plugin for plugin in self.plugins if plugin.found.is_called(name))

    def fingerprint(self) -> str:
        """Return `fingerprint` of what was found."""
        return fingerprint(plugin.found for plugin in self.plugins)

    def engine_fingerprint(self) -> str:
        """Return `fingerprint` of those alone that an engine makes use of.

        Parsers and templates may be installed, changed and removed while engines run.
        """
        return fingerprint(plugin.found for plugin in self.plugins if plugin.has_engine_parts)

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "fingerprint": self.fingerprint(),
            "plugins": [plugin.as_json() for plugin in self.plugins],
        }


def fingerprint(found: Iterable[Found]) -> str:
    """Hash who was found, so that two processes can prove that they found the same plugins.

    Returns:
        SHA-256, hexadecimal, of the sorted (distribution, version, name, value).
    """
    rows = sorted((one.distribution, one.version, one.name, one.value) for one in found)
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def noun_of(kind: str) -> str:
    """Turn a kind into the word for one of it: `model_loaders` -> `model loader`."""
    return kind.replace("_", " ").removesuffix("s")
