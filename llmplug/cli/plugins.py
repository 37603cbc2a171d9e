"""`llmplug plugins`: which plugins are installed, what they offer, and what is wrong with them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llmplug.plugin_report import Plugin, PluginReport

NAME = "plugins"
HELP = "list the installed plugins, what they offer, and what is wrong with them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take how to print, which hook, and the config whose plugins.block counts."""
    from llmplug.cli.arguments import add_config

    parser.add_argument("--json", action="store_true", help="print JSON, tracebacks included")
    parser.add_argument(
        "--check", action="store_true", help="exit 1 if any plugin is neither ok nor blocked"
    )
    parser.add_argument("--explain", metavar="NAME", help="tell all about one plugin")
    parser.add_argument("--hook", metavar="NAME", help="only plugins with this hook: samplers")
    add_config(parser, required=False)


def run(args: argparse.Namespace) -> int:
    """Load every plugin and print what became of it."""
    from llmplug.cli.terminal import write, write_json

    report = _load_report(args)
    if args.explain is not None:
        return _explain(args, report)
    hook = None if args.hook is None else _find_hook(args.hook)
    plugins = [plugin for plugin in report.plugins if hook is None or hook in plugin.hooks]
    if args.json:
        rows = [plugin.as_json() for plugin in plugins]
        write_json({"fingerprint": report.fingerprint(), "plugins": rows})
    else:
        write("\n".join(_describe(plugins)))
    return 1 if args.check and report.problems else 0


def _explain(args: argparse.Namespace, report: PluginReport) -> int:
    """Print one plugin, whole; exit as `--check` would for it alone."""
    from llmplug.cli.terminal import write, write_json
    from llmplug.did_you_mean import did_you_mean
    from llmplug.errors import PluginError

    found = report.called(args.explain)
    if not found:
        hint = did_you_mean(args.explain, [plugin.found.name for plugin in report.plugins])
        raise PluginError(f"no plugin {args.explain!r} is installed{hint}")
    if args.json:
        write_json({"plugins": [plugin.as_json() for plugin in found]})
    else:
        write("\n\n".join("\n".join(_tell(plugin)) for plugin in found))
    return 1 if args.check and any(plugin.is_problem for plugin in found) else 0


def _tell(plugin: Plugin) -> Iterator[str]:
    from llmplug.cli.terminal import format_table

    found = plugin.found
    rows = [
        ("plugin", found.long_name),
        ("version", found.version),
        ("entry point", f"{found.name} = {found.value}"),
        ("code", plugin.code or "not found"),
        ("state", str(plugin.state)),
        ("reason", plugin.reason or "-"),
        ("at", plugin.file or "-"),
        ("hooks", ", ".join(plugin.hooks) or "-"),
        ("offers", ", ".join(map(str, plugin.offers)) or "-"),
        ("loaded in", f"{plugin.load_s * 1000:.0f} ms"),
    ]
    yield from format_table([row for row in rows if row[1] != "-"])
    if plugin.traceback:
        yield f"\n{plugin.traceback.rstrip()}"


def _load_report(args: argparse.Namespace) -> PluginReport:
    from llmplug.cli.arguments import read_config
    from llmplug.errors import ConfigError
    from llmplug.plugins import load_all

    if args.sets and not args.config:
        raise ConfigError("--set needs --config FILE, whose values it overrides")
    if not args.config:
        return load_all()
    from llmplug.assemble import load_plugins

    return load_plugins(read_config(args))


def _find_hook(name: str) -> str:
    """Return the full name of a hook that may be written without its prefix."""
    from llmplug.did_you_mean import did_you_mean
    from llmplug.errors import PluginError
    from llmplug.plugins import HOOKS, PREFIX

    full = name if name.startswith(PREFIX) else f"{PREFIX}{name}"
    if full not in HOOKS:
        short = [hook.removeprefix(PREFIX) for hook in HOOKS]
        hint = did_you_mean(name, short) or f"; hooks: {', '.join(short)}"
        raise PluginError(f"there is no hook {name!r}{hint}")
    return full


def _describe(plugins: Sequence[Plugin]) -> Iterator[str]:
    """Write a line a plugin; below those with a problem, what it is and where."""
    from llmplug.cli.terminal import format_table
    from llmplug.plugins import PREFIX

    heading = ("NAME", "DISTRIBUTION", "VERSION", "STATE", "MS", "HOOKS", "OFFERS")
    rows = [
        (
            plugin.found.name,
            plugin.found.distribution,
            plugin.found.version,
            str(plugin.state),
            f"{plugin.load_s * 1000:.0f}",
            ", ".join(hook.removeprefix(PREFIX) for hook in plugin.hooks) or "-",
            ", ".join(offer.name for offer in plugin.offers) or "-",
        )
        for plugin in plugins
    ]
    first, *lines = format_table([heading, *rows])
    yield first
    for plugin, line in zip(plugins, lines, strict=True):
        yield line
        if plugin.is_problem:
            yield f"  ! {plugin.reason}" + (f" ({plugin.file})" if plugin.file else "")
