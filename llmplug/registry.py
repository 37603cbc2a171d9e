"""What the loaded plugins offer: name -> (spec, owner), by kind.

No two plugins offer one name: `plugins.check` has refused the later one. A name that nobody
offers is an error that says the nearest, what is installed, and which plugins failed to load.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from llmplug.did_you_mean import did_you_mean
from llmplug.errors import CheckpointError, PluginError, SourceError
from llmplug.plugin_clashes import block_one
from llmplug.plugin_report import State, noun_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from llmplug.plugin_report import Plugin, PluginReport
    from llmplug.specs import (
        ChatTemplateSpec,
        GrammarSpec,
        KernelSpec,
        LoaderSpec,
        ModelSpec,
        ReasoningParserSpec,
        SamplerSpec,
        SourceSpec,
        ToolParserSpec,
    )

S = TypeVar("S")


class Entry(NamedTuple, Generic[S]):
    """A spec and who brought it."""

    spec: S
    owner: str  # long name of the plugin: "distribution:plugin"


@dataclass(frozen=True, slots=True)
class Shelf(Generic[S]):
    """All specs of one kind.

    A spec has a short name, and a long one, `distribution:name`, which says whose it is.
    """

    noun: str  # one of them, for messages: "chat template"
    _named: tuple[tuple[str, Entry[S]], ...]
    _problems: tuple[Plugin, ...] = ()

    def __iter__(self) -> Iterator[Entry[S]]:
        return (entry for _, entry in self._named)

    def __len__(self) -> int:
        return len(self._named)

    @property
    def names(self) -> list[str]:
        """Short names, sorted."""
        return sorted({name for name, _ in self._named})

    def get(self, name: str) -> Entry[S]:
        """Return the spec of this short or long name.

        Raises:
            PluginError: nobody offers it.
        """
        found = [entry for own, entry in self._named if name in {own, _long_name(own, entry)}]
        if not found:
            installed = ", ".join(self.names) or "none"
            raise PluginError(
                f"no installed plugin offers the {self.noun} {name!r}"
                f"{did_you_mean(name, self.names)}; installed: {installed}"
                f"{_failed(self._problems)}"
            )
        return found[0]


class Registry:
    """The shelves, and the choices that need no more than a name, a path or a config.

    Raises:
        PluginError: a plugin in `require` (short or long names) is not ok.
    """

    def __init__(self, report: PluginReport, *, require: Sequence[str] = ()) -> None:
        self.report = report
        for name in require:
            _require(report, name)
        self.sources: Shelf[SourceSpec] = _shelf(report, "sources")
        self.loaders: Shelf[LoaderSpec] = _shelf(report, "model_loaders")
        self.models: Shelf[ModelSpec] = _shelf(report, "models")
        self.kernels: Shelf[KernelSpec] = _shelf(report, "kernels")
        self.samplers: Shelf[SamplerSpec] = _shelf(report, "samplers")
        self.chat_templates: Shelf[ChatTemplateSpec] = _shelf(report, "chat_templates")
        self.tool_parsers: Shelf[ToolParserSpec] = _shelf(report, "tool_parsers")
        self.reasoning_parsers: Shelf[ReasoningParserSpec] = _shelf(report, "reasoning_parsers")
        self.grammars: Shelf[GrammarSpec] = _shelf(report, "grammars")

    def without(self, owner: str) -> Registry:
        """Return the registry as it would be with one plugin, by its long name, blocked."""
        return Registry(block_one(self.report, owner))

    def source_for(self, source: str) -> tuple[Entry[SourceSpec], str] | None:
        """Split `scheme:rest` into who fetches it and the rest; None: it is a path.

        A scheme may be written long: `distribution:scheme:rest`.

        Raises:
            SourceError: no plugin offers the scheme.
        """
        scheme, colon, rest = source.partition(":")
        if not colon or not scheme or scheme[0] in "./~" or "/" in scheme:
            return None
        known = {name for name, _ in self.sources._named}
        if scheme not in known and (f"{scheme}:{rest.partition(':')[0]}") in _long_names(
            self.sources
        ):
            second, _, rest = rest.partition(":")
            scheme = f"{scheme}:{second}"
        try:
            return self.sources.get(scheme), rest
        except PluginError as error:
            raise SourceError(f"source {source!r}: {error}") from error

    def loader_for(self, path: Path) -> Entry[LoaderSpec]:
        """Return the loader that claims the file or folder.

        Raises:
            CheckpointError: none does.
            PluginError: several do, or one failed while it looked.
        """
        claims = [pair for pair in self.loaders._named if _claims(pair[1], path)]
        if len(claims) > 1:
            raise PluginError(_ambiguous("format", str(path), claims))
        if not claims:
            known = ", ".join(self.loaders.names) or "none"
            raise CheckpointError(
                f"{path}: of no known checkpoint format; installed loaders: {known}"
                f"{_failed(self.report.problems)}"
            )
        return claims[0][1]

    def model_for(self, config: Mapping[str, Any]) -> Entry[ModelSpec]:
        """Return the model that claims the first known entry of `architectures`, or a fallback.

        Raises:
            CheckpointError: no plugin knows any of them.
            PluginError: two fallbacks would take it.
        """
        wanted = list(config.get("architectures") or ())
        for architecture in wanted:
            for entry in self.models:
                if architecture in entry.spec.architectures:
                    return entry
        fallbacks = [
            (name, entry)
            for name, entry in self.models._named
            if wanted and entry.spec.claims is not None and entry.spec.claims(config)
        ]
        if len(fallbacks) > 1:
            raise PluginError(_ambiguous("architecture", wanted[0], fallbacks))
        if fallbacks:
            return fallbacks[0][1]
        known = sorted({name for entry in self.models for name in entry.spec.architectures})
        hint = did_you_mean(wanted[0], known) if wanted else ""
        raise CheckpointError(
            f"no installed plugin offers the architecture {', '.join(wanted) or '(none named)'}"
            f"{hint}; installed: {', '.join(known) or 'none'}{_failed(self.report.problems)}"
        )


def _shelf(report: PluginReport, kind: str) -> Shelf[Any]:
    named = tuple(
        (offer.name, Entry(offer.spec, plugin.found.long_name))
        for plugin in report.plugins
        if plugin.is_loaded
        for offer in plugin.offers
        if offer.kind == kind
    )
    noun = "loader" if kind == "model_loaders" else noun_of(kind)
    return Shelf(noun, named, report.problems)


def _require(report: PluginReport, name: str) -> None:
    found = report.called(name)
    if not found:
        known = [plugin.found.name for plugin in report.plugins]
        raise PluginError(f"plugins.require: {name!r} is not installed{did_you_mean(name, known)}")
    if len(found) > 1:
        names = " and ".join(plugin.found.long_name for plugin in found)
        raise PluginError(f"plugins.require: {name!r} is ambiguous: {names}")
    if found[0].state is not State.OK:
        raise PluginError(
            f"plugins.require: {found[0]}; `llmplug plugins --explain {name}` tells all of it. "
            "Repair, update or uninstall it, or take it out of plugins.require"
        )


def _claims(entry: Entry[LoaderSpec], path: Path) -> bool:
    try:
        return entry.spec.claims(path)
    except Exception as error:
        raise PluginError(
            f"plugin {entry.owner}: loader {entry.spec.name!r} failed on {path}: {error!r}"
        ) from error


def _ambiguous(noun: str, name: str, found: Sequence[tuple[str, Entry[Any]]]) -> str:
    offers = " and ".join(f"{_long_name(*pair)} (plugin {pair[1].owner})" for pair in found)
    return f"{noun} {name!r} is ambiguous: {offers}; block one of the plugins with plugins.block"


def _failed(problems: Sequence[Plugin]) -> str:
    """Name the plugins that might have offered what is missing."""
    broken = [str(plugin) for plugin in problems if not plugin.is_loaded]
    return f"; not loaded: {'; '.join(broken)}" if broken else ""


def _long_name(name: str, entry: Entry[Any]) -> str:
    return f"{entry.owner.partition(':')[0]}:{name}"


def _long_names(shelf: Shelf[Any]) -> set[str]:
    return {_long_name(*pair) for pair in shelf._named}
