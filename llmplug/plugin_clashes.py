"""Who keeps a name that several plugins have: the bundled one, else the earlier one.

One rule for every kind of name, as docs/plugins/contract.md says it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from llmplug.plugin_report import Plugin, PluginReport, State

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


def refuse_clashes(plugins: Iterable[Plugin]) -> PluginReport:
    """Refuse each plugin that has a name of one before it, bundled ones first, then as they stand.

    A refused plugin is refused whole, and takes no name from those behind it.
    """
    checked = list(plugins)
    owners: dict[tuple[str, str], Plugin] = {}
    for place in sorted(range(len(checked)), key=lambda at: not checked[at].found.is_bundled):
        plugin = checked[place]
        if plugin.state is not State.OK:
            continue
        clashes = [claim for claim in _claims(plugin) if claim in owners]
        if clashes:
            reason = _explain_clash({claim: owners[claim] for claim in clashes})
            checked[place] = replace(plugin, state=State.CONFLICT, reason=reason)
        else:
            owners.update(dict.fromkeys(_claims(plugin), plugin))
    return PluginReport(tuple(checked))


def block_one(report: PluginReport, long_name: str) -> PluginReport:
    """Return the report as it would be with one plugin blocked: its names are free then."""
    return refuse_clashes(_reopen(plugin, long_name) for plugin in report.plugins)


def _reopen(plugin: Plugin, blocked: str) -> Plugin:
    if plugin.found.long_name == blocked:
        return replace(plugin, state=State.BLOCKED)
    if plugin.state is State.CONFLICT:
        return replace(plugin, state=State.OK, reason="")
    return plugin


def _claims(plugin: Plugin) -> Iterator[tuple[str, str]]:
    """Yield what only one plugin may be called or offer."""
    yield "plugin", plugin.found.name
    for offer in plugin.offers:
        yield from offer.claims


def _explain_clash(owners: Mapping[tuple[str, str], Plugin]) -> str:
    """Say whose the names are, and what to do about it."""
    names = [
        f"{noun} {name!r} is that of {owner.found.long_name}"
        for (noun, name), owner in owners.items()
    ]
    others = " and ".join(dict.fromkeys(owner.found.long_name for owner in owners.values()))
    return f"{', '.join(names)}; to use this plugin, write {others} under plugins.block"
