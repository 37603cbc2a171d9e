"""Plugins of the nodes of a cluster: all of them must have the same, as any may run a server."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from llmplug import __version__
from llmplug.errors import PluginError
from llmplug.plugins import find

# Long name of a plugin -> its distribution's version.
PluginList = dict[str, str]
MISSING = "missing"


def list_plugins() -> PluginList:
    """List llmplug and the plugins that are installed here, without importing any."""
    found = {one.long_name: f"{one.version} ({one.value})" for one in find()}
    return {"llmplug": __version__, **found}


def check_here(plugins: PluginList) -> None:
    """Raise unless the plugins of this node are those of the machine that deploys.

    Raises:
        PluginError: they are not; the message names them.
    """
    differences = compare({"the deploying machine": plugins, "here": list_plugins()})
    if differences:
        raise PluginError("plugins differ: " + "; ".join(differences))


def compare(lists: Mapping[str, PluginList]) -> list[str]:
    """Say which plugins are not the same everywhere.

    Args:
        lists: what each node has, by the node's name.
    Returns:
        A sentence for each plugin that differs, with the nodes; empty: all have the same.
    """
    names = sorted({name for plugins in lists.values() for name in plugins})
    differences = []
    for name in names:
        nodes: defaultdict[str, list[str]] = defaultdict(list)
        for node, plugins in lists.items():
            nodes[plugins.get(name, MISSING)].append(node)
        if len(nodes) > 1:
            where = "; ".join(
                f"{'missing' if version == MISSING else version} on {', '.join(sorted(on))}"
                for version, on in sorted(nodes.items())
            )
            differences.append(f"{name}: {where}")
    return differences
