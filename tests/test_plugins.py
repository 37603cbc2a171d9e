"""Find, load, check: each way in which a plugin can be wrong gives it one state and one reason."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from importlib.metadata import EntryPoint

import pytest

from llmplug import plugins
from llmplug.errors import PluginError
from llmplug.plugin_report import Plugin, State
from tests.fake_plugins import GOOD, Site, hook, load_all


def load_one(site: Site, code: str, **options: str) -> Plugin:
    """Load a plugin beside a good one, and check that the good one does not suffer."""
    site.install("aaa", GOOD)
    site.install("odd", code, **options)
    site.install("zzz", GOOD.replace("good", "last"))
    loaded = load_all(site)
    assert loaded.pop("dist-aaa:aaa").state is State.OK
    assert loaded.pop("dist-zzz:zzz").state is State.OK
    (plugin,) = loaded.values()
    return plugin


def test_bundled_plugins_come_through_the_public_door() -> None:
    found = {(one.name, one.value) for one in plugins.find() if one.distribution == "llmplug"}
    declared = metadata.distribution("llmplug").entry_points.select(group="llmplug")
    assert found == {(point.name, point.value) for point in declared}


def test_find_sorts_and_imports_nothing(site: Site) -> None:
    for name in ("bb", "cc", "aa"):
        site.install(name, GOOD)
    found = plugins.find(site.entry_points())
    assert [one.name for one in found] == ["aa", "bb", "cc"]
    assert found[0].long_name == "dist-aa:aa"
    assert found[0].version == "1.0"
    assert not set(site.modules) & set(sys.modules)


def test_installed_entry_points_are_found(site: Site) -> None:
    site.install("extra", GOOD)
    assert "dist-extra:extra" in {one.long_name for one in plugins.find()}


def test_ok_plugin_says_what_it_offers(site: Site) -> None:
    code = GOOD + "@hookimpl\ndef llmplug_kernels(): return [kernel('linear', 'fast')]\n"
    plugin = load_one(site, code.replace('"good"', '"odd"'))
    assert plugin.state is State.OK
    assert plugin.hooks == ("llmplug_kernels", "llmplug_samplers")
    assert [str(offer) for offer in plugin.offers] == ["kernel linear/fast", "sampler odd"]
    assert plugin.load_s > 0


def test_object_with_methods_is_a_plugin(site: Site) -> None:
    code = """
    class Plugin:
        @hookimpl
        def llmplug_samplers(self):
            return [sampler("method")]

    plugin = Plugin()
    """
    plugin = load_one(site, code, value="fake_dist_odd_odd:plugin")
    assert [offer.name for offer in plugin.offers] == ["method"]


# --- broken: it raises --------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("code", "exception", "reason"),
    [
        ("import not_installed_anywhere", "ModuleNotFoundError", "No module named"),
        ("from json import not_there", "ImportError", "cannot import name"),
        ("1 / 0", "ZeroDivisionError", "division by zero"),
        ("raise SystemExit('bye')", "SystemExit", "bye"),
        ("class Own(BaseException): pass\nraise Own", "Own", "Own"),
        ("def broken(:", "SyntaxError", "invalid syntax"),
        ("@hookimpl\ndef llmplug_samplers(): raise OSError('no\\nGPU')", "OSError", "no GPU"),
        ("@hookimpl\ndef llmplug_samplers(): return [SamplerSpec(nam='x')]", "TypeError", "nam"),
    ],
)
def test_plugin_that_raises_is_broken(site: Site, code: str, exception: str, reason: str) -> None:
    plugin = load_one(site, code)
    assert plugin.state is State.BROKEN
    assert plugin.exception == exception
    assert reason in plugin.reason
    assert "\n" not in plugin.reason
    assert plugin.traceback is not None
    assert plugin.traceback.startswith("Traceback")
    assert plugin.offers == ()


def test_broken_plugin_says_where(site: Site) -> None:
    plugin = load_one(site, "\n\nraise KeyError('here')")
    path = site.folder / "fake_dist_odd_odd.py"
    line = path.read_text().splitlines().index("raise KeyError('here')") + 1
    assert plugin.file == f"{path}:{line}"
    assert str(plugin) == (
        f"plugin 'odd' of dist-odd 1.0 is broken: KeyError: 'here' ({path}:{line})"
    )


def test_syntax_error_says_where(site: Site) -> None:
    plugin = load_one(site, "def broken(:")
    path = site.folder / "fake_dist_odd_odd.py"
    assert plugin.file == f"{path}:{len(path.read_text().splitlines())}"


def test_missing_module_is_broken(site: Site) -> None:
    plugin = load_one(site, GOOD, value="no_such_module_at_all")
    assert (plugin.state, plugin.exception) == (State.BROKEN, "ModuleNotFoundError")


def test_keyboard_interrupt_passes(site: Site) -> None:
    site.install("slow", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        plugins.load_all(entry_points=site.entry_points())


def test_failure_after_a_good_hook_leaves_nothing(site: Site) -> None:
    plugin = load_one(site, GOOD + "@hookimpl\ndef llmplug_sources(): raise ValueError")
    assert plugin.state is State.BROKEN
    assert (plugin.hooks, plugin.offers) == ((), ())


# --- incompatible: it does not keep to the hooks ------------------------------------------------
@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (hook("return []", "llmplug_samplers(config)"), "'config'"),
        (hook("return []", "llmplug_sampler"), "did you mean 'llmplug_samplers'?"),
        (hook("return []", "other"), "has no hook 'other'"),
        (hook("return []", marker=""), "lacks @llmplug.hookimpl"),
        (hook("return []", "llmplug_modls", marker=""), "did you mean 'llmplug_models'?"),
        (hook("yield", marker="@hookimpl(wrapper=True)"), "cannot be a wrapper"),
        (hook("return None"), "returned NoneType, not a list of SamplerSpec"),
        (hook("return sampler('x')"), "returned SamplerSpec, not a list"),
        (hook("yield sampler('x')"), "returned generator, not a list"),
        (hook("return [source('x')]"), "returned a SourceSpec in place of a SamplerSpec"),
        (hook("return [sampler('x'), 'x']"), "returned a str in place of a SamplerSpec"),
        (hook("return [sampler('')]"), "whose 'name' is '', not text"),
        (hook("return [sampler('x', make=None)]"), "whose 'make' is None, not a function"),
        (
            hook("return [sampler('x', make=lambda width, device: 0)]"),
            "whose 'make' cannot be called with 3 arguments",
        ),
        (
            hook("return [sampler('x', is_active=lambda: 0)]"),
            "whose 'is_active' cannot be called with 1 arguments",
        ),
        (
            hook(
                "return [ToolParserSpec(name='x', detect=lambda template: 0)]",
                "llmplug_tool_parsers",
            ),
            "whose 'detect' cannot be called with 3 arguments",
        ),
        (hook("return [sampler('x', order='1')]"), "whose 'order' is '1', not a whole number"),
        (hook("return [sampler('x', stage='late')]"), "of stage 'late', not one of bias, scale"),
        (hook("return [sampler('x', params=dict)]"), "whose 'params' is no pydantic model"),
        (
            "class Must(BaseModel):\n    x: int\n" + hook("return [sampler('x', params=Must)]"),
            "whose parameter 'x' has no neutral default",
        ),
        (hook("return [sampler('x'), sampler('x')]"), "it offers sampler 'x' twice"),
        (hook("return [model('x')]", "llmplug_models"), "claims no architecture"),
        (
            hook("return [model('x', 'A'), model('y', 'A')]", "llmplug_models"),
            "it offers architecture 'A' twice",
        ),
        ("from llmplug import NoSuchSpec", "lacks what it imports"),
        ("from llmplug.no_such_room import x", "lacks what it imports"),
        ("", "it implements no hook"),
    ],
)
def test_plugin_that_breaks_the_contract_is_incompatible(
    site: Site, code: str, reason: str
) -> None:
    plugin = load_one(site, code)
    assert plugin.state is State.INCOMPATIBLE, plugin.traceback
    assert reason in plugin.reason
    assert plugin.file is not None
    assert plugin.file.startswith(str(site.folder))
    assert plugin.offers == ()


def test_text_in_place_of_a_tuple_is_incompatible(site: Site) -> None:
    code = hook("return [replace(model('x', 'A'), architectures='A')]", "llmplug_models")
    plugin = load_one(site, "from dataclasses import replace\n" + code)
    assert plugin.reason == (
        "llmplug_models returned a ModelSpec whose 'architectures' is 'A', not a tuple of texts"
    )


@pytest.mark.parametrize(
    ("requires", "state"),
    [
        ("llmplug>=0.1,<0.3", "ok"),
        ("llmplug", "ok"),
        ("llmplug-extras>=99", "ok"),
        ('llmplug[test-kit]>=99 ; extra == "test"', "ok"),
        ("llmplug>=99", "incompatible"),
        ("llmplug[transformers]<0.1", "incompatible"),
        ("llmplug>=", "incompatible"),
    ],
)
def test_a_version_that_is_asked_for_is_looked_at(site: Site, requires: str, state: str) -> None:
    code = GOOD.replace("good", "mine") if state == "ok" else "raise SystemExit"
    plugin = load_one(site, code, requires=requires)
    assert plugin.state == state, plugin.reason
    if state != "ok":
        assert requires in plugin.reason


def test_class_is_incompatible(site: Site) -> None:
    plugin = load_one(site, "class Plugin: pass", value="fake_dist_odd_odd:Plugin")
    assert plugin.state is State.INCOMPATIBLE
    assert "names a class" in plugin.reason


def test_damaged_metadata_harms_nobody_else(site: Site) -> None:
    site.install("good", GOOD)
    site.describe("damaged", "[llmplug]\nno equals sign\n")
    site.describe("foreign", "[console_scripts]\nno equals sign either\n")
    # The standard library's own reading fails as a whole.
    with pytest.raises(TypeError):
        site.entry_points()
    loaded = {one.long_name: plugins.load(one) for one in plugins.find()}
    assert loaded["dist-good:good"].state is State.OK
    assert loaded["damaged:damaged"].state is State.INCOMPATIBLE
    assert "damaged entry_points.txt" in loaded["damaged:damaged"].reason
    assert not any(name.startswith("foreign") for name in loaded)


def test_entry_point_without_a_distribution_loads() -> None:
    point = EntryPoint(name="loose", value="not_installed_anywhere", group="llmplug")
    (plugin,) = plugins.load_all(entry_points=[point]).plugins
    assert plugin.found.long_name == "unknown:loose"
    assert plugin.state is State.BROKEN


# --- blocked ------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["odd", "dist-odd:odd"])
def test_blocked_plugin_is_never_imported(site: Site, name: str) -> None:
    site.install("odd", "raise RuntimeError")
    (plugin,) = load_all(site, block=(name,)).values()
    assert plugin.state is State.BLOCKED
    assert not set(site.modules) & set(sys.modules)


def test_block_of_what_is_not_installed_is_an_error(site: Site) -> None:
    site.install("standard", GOOD)
    with pytest.raises(PluginError, match="'standart' is installed; did you mean 'standard'"):
        load_all(site, block=("standart",))


def test_block_of_an_ambiguous_name_is_an_error(site: Site) -> None:
    site.install("twin", GOOD, distribution="one")
    site.install("twin", GOOD, distribution="two")
    with pytest.raises(PluginError, match="write one:twin or two:twin"):
        load_all(site, block=("twin",))
    loaded = load_all(site, block=("two:twin",))
    assert loaded["one:twin"].state is State.OK
    assert loaded["two:twin"].state is State.BLOCKED


# --- report -------------------------------------------------------------------------------------
def test_report_is_json(site: Site) -> None:
    site.install("good", GOOD)
    site.install("odd", "1 / 0")
    report = plugins.load_all(entry_points=site.entry_points())
    rows = json.loads(json.dumps(report.as_json()))["plugins"]
    assert [(row["long_name"], row["state"]) for row in rows] == [
        ("dist-good:good", "ok"),
        ("dist-odd:odd", "broken"),
    ]
    assert rows[0]["offers"] == [{"kind": "samplers", "name": "good"}]
    assert [plugin.found.name for plugin in report.problems] == ["odd"]


def test_fingerprint_tells_lists_apart(site: Site) -> None:
    def fingerprint() -> str:
        return plugins.load_all(entry_points=site.entry_points()).fingerprint()

    site.install("one", GOOD)
    first = fingerprint()
    assert first == fingerprint()
    site.install("two", GOOD, version="1.0")
    both = fingerprint()
    (site.folder / "dist_two-1.0.dist-info/METADATA").write_text("Name: dist-two\nVersion: 1.1\n")
    assert len({first, both, fingerprint()}) == 3


def test_fingerprint_does_not_depend_on_order_or_state(site: Site) -> None:
    site.install("one", GOOD)
    site.install("two", "1 / 0")
    points = site.entry_points()
    forward = plugins.load_all(entry_points=points)
    backward = plugins.load_all(entry_points=reversed(points), block=("two",))
    assert forward.fingerprint() == backward.fingerprint()
