"""Several plugins with one name: who keeps it, and what becomes of the others."""

from __future__ import annotations

import pytest

from llmplug import plugins
from llmplug.errors import PluginError
from llmplug.plugin_report import State
from llmplug.registry import Registry, Shelf
from tests.fake_plugins import GOOD, Site, hook, load_all

# Whatever has a name: a hook's text for it, and what the reason calls it.
NAMED = {
    "source": ("llmplug_sources", "source('mine')", "source 'mine'"),
    "loader": ("llmplug_model_loaders", "loader('mine', '.mine')", "model loader 'mine'"),
    "model": ("llmplug_models", "model('mine', 'A' + __name__)", "model 'mine'"),
    "architecture": ("llmplug_models", "model(__name__, 'Mine')", "architecture 'Mine'"),
    "kernel": ("llmplug_kernels", "kernel('linear', 'mine')", "kernel 'linear/mine'"),
    "sampler": ("llmplug_samplers", "sampler('mine', params=own(__name__))", "sampler 'mine'"),
    "request field": (
        "llmplug_samplers",
        "sampler(__name__, params=own('mine'))",
        "request field 'mine'",
    ),
    "template": ("llmplug_chat_templates", "template('mine')", "chat template 'mine'"),
    "tool parser": (
        "llmplug_tool_parsers",
        "ToolParserSpec(name='mine', detect=print, make=print)",
        "tool parser 'mine'",
    ),
    "reasoning parser": (
        "llmplug_reasoning_parsers",
        "ReasoningParserSpec(name='mine', detect=print, make=print)",
        "reasoning parser 'mine'",
    ),
    "grammar": ("llmplug_grammars", "GrammarSpec(name='mine', open=print)", "grammar 'mine'"),
}
OWN = """
from llmplug import GrammarSpec, ReasoningParserSpec, ToolParserSpec

def own(name): return create_model("Params", **{name: (float, 0.0)})

@hookimpl
def llmplug_sources(): return [source("s" + __name__)]
"""


@pytest.mark.parametrize("kind", NAMED)
def test_a_plugin_with_a_name_of_an_earlier_one_is_refused_whole(kind: str, site: Site) -> None:
    hook_name, text, called = NAMED[kind]
    code = hook(f"return [{text}]", hook_name) + "\n"
    others = "" if hook_name == "llmplug_sources" else OWN
    head = OWN.partition("@hookimpl")[0]
    site.install("first", head + code)
    site.install("second", (others or head) + code)
    site.install("third", GOOD)
    report = plugins.load_all(entry_points=site.entry_points())
    states = {plugin.found.name: plugin.state for plugin in report.plugins}
    assert states == {"first": "ok", "second": "conflict", "third": "ok"}
    assert report.plugins[1].reason == (
        f"{called} is that of dist-first:first; "
        "to use this plugin, write dist-first:first under plugins.block"
    )
    registry = Registry(report)
    shelves = [thing for thing in vars(registry).values() if isinstance(thing, Shelf)]
    assert {entry.owner for shelf in shelves for entry in shelf} == {
        "dist-first:first",
        "dist-third:third",
    }
    with pytest.raises(PluginError, match=f"plugins.require: .* in conflict: {called} is that of"):
        Registry(report, require=["second"])
    freed = load_all(site, block=("first",))
    assert freed["dist-second:second"].state is State.OK


def test_a_bundled_plugin_is_earlier_than_any(site: Site) -> None:
    site.install("aaa", GOOD)
    site.install("zzz", GOOD, distribution="llmplug", version="99")
    loaded = load_all(site)
    assert loaded["dist-aaa:aaa"].state is State.CONFLICT
    assert loaded["llmplug:zzz"].state is State.OK


def test_two_plugins_of_one_name_are_in_conflict(site: Site) -> None:
    site.install("twin", GOOD, distribution="one")
    site.install("twin", GOOD.replace("good", "other"), distribution="two")
    site.install("alone", GOOD.replace("good", "third"))
    loaded = load_all(site)
    assert loaded["one:twin"].state is State.OK
    assert loaded["two:twin"].reason.startswith("plugin 'twin' is that of one:twin; to use")
    assert loaded["dist-alone:alone"].state is State.OK


def test_one_name_on_two_shelves_is_no_conflict(site: Site) -> None:
    site.install("first", GOOD)
    site.install("second", hook("return [template('good')]", "llmplug_chat_templates"))
    assert {plugin.state for plugin in load_all(site).values()} == {State.OK}


def test_fields_that_the_core_knows_are_anybodys(site: Site) -> None:
    shared = "create_model('Shared', temperature=(float, 1.0))"
    for name in ("one", "two"):
        site.install(name, hook(f"return [sampler('{name}', params={shared})]"))
    assert {plugin.state for plugin in load_all(site).values()} == {State.OK}


def test_a_refused_plugin_takes_no_name(site: Site) -> None:
    both = "return [source('a'), source('b')]"
    site.install("first", hook("return [source('a')]", "llmplug_sources"))
    site.install("second", hook(both, "llmplug_sources"))
    site.install("third", hook("return [source('b')]", "llmplug_sources"))
    states = [plugin.state for plugin in load_all(site).values()]
    assert states == [State.OK, State.CONFLICT, State.OK]


def test_broken_plugin_takes_no_name_from_its_twin(site: Site) -> None:
    site.install("twin", "1 / 0", distribution="one")
    site.install("twin", GOOD, distribution="two")
    loaded = load_all(site)
    assert loaded["one:twin"].state is State.BROKEN
    assert loaded["two:twin"].state is State.OK
