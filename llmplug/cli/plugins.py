"""`llmplug plugins`: which plugins are installed, what they offer, and what is wrong with them."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from llmplug.plugin_report import Plugin, PluginReport

    Troubles = Mapping[str, list[str]]  # of a plugin, by its long name

NAME = "plugins"
HELP = "list the installed plugins, what they offer, and what is wrong with them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take how to print, which hook, and the config whose plugins.block counts."""
    from llmplug.cli.arguments import add_config

    parser.add_argument("--json", action="store_true", help="print JSON, tracebacks included")
    parser.add_argument(
        "--check",
        action="store_true",
        help="try what other people's plugins offer, as far as that needs no model; exit 1 if "
        "anything is wrong with any plugin",
    )
    parser.add_argument("--explain", metavar="NAME", help="tell all about one plugin")
    parser.add_argument("--hook", metavar="NAME", help="only plugins with this hook: samplers")
    add_config(parser, required=False)


def run(args: argparse.Namespace) -> int:
    """Load every plugin and print what became of it."""
    from llmplug.cli.terminal import write, write_json

    with contextlib.redirect_stdout(sys.stderr):  # what plugins print is no part of the list
        report = _load_report(args)
    if args.explain is not None:
        return _explain(args, report)
    hook = None if args.hook is None else _find_hook(args.hook)
    plugins = [plugin for plugin in report.plugins if hook is None or hook in plugin.hooks]
    troubles = _try(report.plugins if args.check else ())
    if args.json:
        rows = [_as_json(plugin, troubles) for plugin in plugins]
        write_json({"fingerprint": report.fingerprint(), "plugins": rows})
    else:
        write("\n".join(_describe(plugins, troubles)))
    return 1 if args.check and (report.problems or troubles) else 0


def _try(plugins: Sequence[Plugin]) -> Troubles:
    """Try the plugins that do not come with llmplug: those that do are tried by its tests."""
    from llmplug.plugin_trials import try_plugin

    loaded = [each for each in plugins if each.is_loaded and not each.found.is_bundled]
    with contextlib.redirect_stdout(sys.stderr):
        tried = {each.found.long_name: try_plugin(each) for each in loaded}
    return {name: troubles for name, troubles in tried.items() if troubles}


def _as_json(plugin: Plugin, troubles: Troubles) -> dict[str, Any]:
    return {**plugin.as_json(), "troubles": troubles.get(plugin.found.long_name, [])}


def _explain(args: argparse.Namespace, report: PluginReport) -> int:
    """Print one plugin, whole; exit as `--check` would for it alone."""
    from llmplug.cli.terminal import write, write_json
    from llmplug.did_you_mean import did_you_mean
    from llmplug.errors import PluginError

    found = report.called(args.explain)
    if not found:
        hint = did_you_mean(args.explain, [plugin.found.name for plugin in report.plugins])
        raise PluginError(f"no plugin {args.explain!r} is installed{hint}")
    troubles = _try(found if args.check else ())
    if args.json:
        write_json({"plugins": [_as_json(plugin, troubles) for plugin in found]})
    else:
        write("\n\n".join("\n".join(_tell(plugin, troubles)) for plugin in found))
    is_wrong = bool(troubles) or any(plugin.is_problem for plugin in found)
    return 1 if args.check and is_wrong else 0


def _tell(plugin: Plugin, troubles: Troubles) -> Iterator[str]:
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
        *(("settings", line) for line in _list_settings(plugin)),
        *(("trouble", line) for line in troubles.get(found.long_name, ())),
        ("loaded in", f"{plugin.load_s * 1000:.0f} ms"),
    ]
    yield from format_table([row for row in rows if row[1] != "-"])
    if plugin.traceback:
        yield f"\n{plugin.traceback.rstrip()}"


def _list_settings(plugin: Plugin) -> Iterator[str]:
    """Yield each key that a config may set, with its value now and what it is for."""
    if plugin.settings is None:
        return
    values = plugin.settings.model_dump(mode="json", fallback=str)
    for name, field in type(plugin.settings).model_fields.items():
        about = f"  {field.description}" if field.description else ""
        yield f"{name}: {json.dumps(values.get(name), ensure_ascii=False)}{about}"


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


def _describe(plugins: Sequence[Plugin], troubles: Troubles) -> Iterator[str]:
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
        yield from (f"  ! {trouble}" for trouble in troubles.get(plugin.found.long_name, ()))
