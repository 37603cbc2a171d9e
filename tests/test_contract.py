"""The contract with plugins: its page, what is public, and every hook at work."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import llmplug
from docs.public_names import MODULES, describe, list_names, write_public_names
from llmplug import hookspecs, plugins
from llmplug.plugin_report import State
from llmplug.plugins import HOOKS, SETTINGS
from tests.fake_plugins import Site

PAGE = (Path(__file__).parents[1] / "docs" / "plugins" / "contract.md").read_text()
# A plugin's text for each hook, with what `tests.fake_plugins.HEAD` has, and the spec's name.
IMPLEMENTED = {
    "llmplug_sources": ('[source("mine")]', "mine"),
    "llmplug_model_loaders": ('[loader("mine", ".mine")]', "mine"),
    "llmplug_models": ('[model("mine", "MineForCausalLM")]', "mine"),
    "llmplug_kernels": ('[kernel("rms_norm", "mine")]', "rms_norm/mine"),
    "llmplug_samplers": ('[sampler("mine")]', "mine"),
    "llmplug_chat_templates": ('[template("mine")]', "mine"),
    "llmplug_tool_parsers": ('[ToolParserSpec(name="mine", detect=print, make=print)]', "mine"),
    "llmplug_reasoning_parsers": (
        '[ReasoningParserSpec(name="mine", detect=print, make=print)]',
        "mine",
    ),
    "llmplug_grammars": ('[GrammarSpec(name="mine", open=print)]', "mine"),
}


def test_the_page_has_every_hook_with_its_arguments_in_order() -> None:
    """And the hooks' own docstrings say when they are asked."""
    functions = [getattr(hookspecs, name) for name in HOOKS]
    expected = [f"{f.__name__}{inspect.signature(f)}".replace("'", "") for f in functions]
    assert re.findall(r"^\| `(llmplug_\w+\(.*?\) -> [^`]+)` \|", PAGE, re.MULTILINE) == expected
    assert [f.__name__ for f in functions if not re.match("Offer .+; .+", f.__doc__ or "")] == []


def test_the_page_has_the_hook_of_settings() -> None:
    function = hookspecs.llmplug_settings
    assert f"`{function.__name__}{inspect.signature(function)}`".replace("'", "") in PAGE
    assert function.__name__ == SETTINGS


def test_every_hook_has_its_test() -> None:
    assert IMPLEMENTED.keys() == HOOKS.keys()


@pytest.mark.parametrize("hook", IMPLEMENTED)
def test_what_a_hook_returns_is_offered(hook: str, site: Site) -> None:
    code, name = IMPLEMENTED[hook]
    site.install("mine", f"{IMPORTS}\n@hookimpl\ndef {hook}():\n    return {code}\n")
    (plugin,) = plugins.load_all(entry_points=site.entry_points()).plugins
    assert (plugin.state, plugin.reason) == (State.OK, "")
    assert plugin.hooks == (hook,)
    (offer,) = plugin.offers
    assert isinstance(offer.spec, HOOKS[hook])
    assert offer.name == name


@pytest.mark.parametrize("hook", IMPLEMENTED)
def test_a_hook_with_arguments_or_another_return_is_refused(hook: str, site: Site) -> None:
    code, _ = IMPLEMENTED[hook]
    site.install("more", f"{IMPORTS}\n@hookimpl\ndef {hook}(config):\n    return {code}\n")
    site.install("none", f"{IMPORTS}\n@hookimpl\ndef {hook}():\n    return [3]\n")
    report = plugins.load_all(entry_points=site.entry_points())
    assert [plugin.state for plugin in report.plugins] == [State.INCOMPATIBLE] * 2


IMPORTS = "from llmplug import GrammarSpec, ReasoningParserSpec, ToolParserSpec"


def test_the_page_names_the_public_modules() -> None:
    intro = PAGE.partition("## Hooks")[0]
    assert set(re.findall(r"`(llmplug(?:\.\w+)?)`", intro)) == set(MODULES)


def test_public_names_are_those_of_the_front_door() -> None:
    assert list_names(llmplug) == sorted(llmplug.__all__)
    page = write_public_names()
    for name in llmplug.__all__:
        assert re.search(rf"^(class )?{name}\b", page, re.MULTILINE), name


def test_a_snapshot_shows_what_plugins_would_notice() -> None:
    """A field, a default, a type, an argument: each changes a line."""

    def two(a: int, *, b: str = "x") -> None:
        """Take two."""

    def other(a: int, *, b: str = "y") -> None:
        """Take two."""

    assert list(describe("f", two)) == ["f(a: int, *, b: str = 'x') -> None"]
    assert list(describe("f", other)) != list(describe("f", two))
    assert list(describe("LayerCache", llmplug.LayerCache)) == [
        "class LayerCache",
        "    num_kv_heads: int",
        "    head_width: int",
        "    window: int | None = ...",
        "    key_scale: float = ...",
        "    value_scale: float = ...",
    ]


def test_an_old_name_works_and_says_the_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(llmplug._RENAMED, "KernelChoice", ("KernelSpec", "0.3"))
    words = r"llmplug\.KernelChoice is now llmplug\.KernelSpec; llmplug 0\.3 will not have the old"
    with pytest.warns(DeprecationWarning, match=words) as caught:
        assert llmplug.KernelChoice is llmplug.KernelSpec
    assert caught[0].filename == __file__


def test_no_old_name_outlives_its_version() -> None:
    now = tuple(map(int, llmplug.__version__.split(".")[:2]))
    for old, (new, gone_in) in llmplug._RENAMED.items():
        assert new in llmplug.__all__, old
        assert tuple(map(int, gone_in.split(".")[:2])) > now, f"remove {old}"
