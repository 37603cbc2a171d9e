"""Names are found, never shadowed; what is missing is told with what is near and what failed."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmplug import plugins
from llmplug.errors import CheckpointError, PluginError, SourceError
from llmplug.registry import Registry
from tests.fake_plugins import Site

SAMPLER = "@hookimpl\ndef llmplug_samplers(): return [sampler('mine')]\n"
TEMPLATE = "@hookimpl\ndef llmplug_chat_templates(): return [template('chat')]\n"


def make_registry(site: Site, *require: str, block: tuple[str, ...] = ()) -> Registry:
    report = plugins.load_all(entry_points=site.entry_points(), block=block)
    return Registry(report, require=require)


def install(site: Site, name: str, kind: str, expression: str, **options: str) -> None:
    site.install(name, f"@hookimpl\ndef llmplug_{kind}(): return [{expression}]", **options)


def test_shelves_hold_specs_and_their_owners(site: Site) -> None:
    site.install("first", SAMPLER + TEMPLATE)
    install(site, "second", "kernels", "kernel('linear', 'a'), kernel('rope', 'a')")
    registry = make_registry(site)
    assert [(e.spec.name, e.owner) for e in registry.samplers] == [("mine", "dist-first:first")]
    assert registry.chat_templates.names == ["chat"]
    assert [(e.spec.op, e.owner) for e in registry.kernels] == [
        ("linear", "dist-second:second"),
        ("rope", "dist-second:second"),
    ]
    assert len(registry.models) == len(registry.loaders) == len(registry.sources) == 0


def test_unknown_name_tells_the_nearest_and_the_installed(site: Site) -> None:
    site.install("first", SAMPLER + TEMPLATE)
    with pytest.raises(PluginError) as caught:
        make_registry(site).chat_templates.get("chatt")
    assert str(caught.value) == (
        "no installed plugin offers the chat template 'chatt'; did you mean 'chat'?; "
        "installed: chat"
    )


def test_unknown_name_tells_which_plugins_failed(site: Site) -> None:
    path = site.install("odd", "1 / 0")
    with pytest.raises(PluginError) as caught:
        make_registry(site).samplers.get("mine")
    assert str(caught.value) == (
        "no installed plugin offers the sampler 'mine'; installed: none; not loaded: plugin 'odd' "
        "of dist-odd 1.0 is broken: ZeroDivisionError: division by zero "
        f"({path}:{len(path.read_text().splitlines())})"
    )


def test_long_name_says_whose_it_is(site: Site) -> None:
    site.install("first", TEMPLATE)
    site.install("second", TEMPLATE)
    shelf = make_registry(site).chat_templates
    assert shelf.get("chat") == shelf.get("dist-first:chat")
    with pytest.raises(
        PluginError, match=r"'dist-second:chat'.* not loaded: plugin 'second' .* is"
    ):
        shelf.get("dist-second:chat")


def test_blocking_one_frees_its_names(site: Site) -> None:
    site.install("first", TEMPLATE)
    site.install("second", TEMPLATE)
    registry = make_registry(site, block=("first",))
    assert registry.chat_templates.get("chat").owner == "dist-second:second"


# --- sources ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("hub:org/name@main", "org/name@main"),
        ("hub:a:b", "a:b"),
        ("dist-hub:hub:org/name", "org/name"),
    ],
)
def test_source_is_split_at_its_scheme(site: Site, text: str, rest: str) -> None:
    install(site, "hub", "sources", "source('hub')")
    found = make_registry(site).source_for(text)
    assert found is not None
    assert (found[0].spec.scheme, found[1]) == ("hub", rest)


@pytest.mark.parametrize("path", ["model.gguf", "/a/b:c", "./a:b", "../a:b", "~/a:b", "a/b:c"])
def test_paths_have_no_scheme(site: Site, path: str) -> None:
    assert make_registry(site).source_for(path) is None


def test_unknown_scheme_is_an_error(site: Site) -> None:
    install(site, "hub", "sources", "source('hub')")
    with pytest.raises(SourceError, match=r"source 'huub:x': .* did you mean 'hub'"):
        make_registry(site).source_for("huub:x")


# --- loaders ------------------------------------------------------------------------------------
def test_loader_that_claims_the_path_is_chosen(site: Site) -> None:
    install(site, "formats", "model_loaders", "loader('a', '.a'), loader('b', '.b')")
    assert make_registry(site).loader_for(Path("x.b")).spec.name == "b"


def test_unclaimed_path_is_an_error(site: Site) -> None:
    install(site, "formats", "model_loaders", "loader('a', '.a'), loader('b', '.b')")
    with pytest.raises(CheckpointError, match=r"x\.c: of no known .* installed loaders: a, b$"):
        make_registry(site).loader_for(Path("x.c"))


def test_path_that_two_claim_is_an_error(site: Site) -> None:
    install(site, "one", "model_loaders", "loader('a', '.a')")
    install(site, "two", "model_loaders", "loader('b', '.a')")
    with pytest.raises(PluginError, match=r"dist-one:a .* and dist-two:b"):
        make_registry(site).loader_for(Path("x.a"))


def test_loader_that_fails_is_named(site: Site) -> None:
    code = "LoaderSpec(name='a', claims=lambda path: 1 / 0, open=open)"
    install(site, "formats", "model_loaders", code)
    with pytest.raises(PluginError, match="plugin dist-formats:formats: loader 'a' failed on x: Z"):
        make_registry(site).loader_for(Path("x"))


# --- models -------------------------------------------------------------------------------------
def test_first_known_architecture_is_chosen(site: Site) -> None:
    install(site, "family", "models", "model('a', 'AForCausalLM', 'AModel'), model('b', 'B')")
    registry = make_registry(site)
    assert registry.model_for({"architectures": ["AModel"]}).spec.name == "a"
    assert registry.model_for({"architectures": ["Unknown", "B"]}).spec.name == "b"


def test_unknown_architecture_is_an_error(site: Site) -> None:
    install(site, "family", "models", "model('a', 'AlphaForCausalLM')")
    with pytest.raises(CheckpointError) as caught:
        make_registry(site).model_for({"architectures": ["Alpha2ForCausalLM"]})
    assert str(caught.value) == (
        "no installed plugin offers the architecture Alpha2ForCausalLM; "
        "did you mean 'AlphaForCausalLM'?; installed: AlphaForCausalLM"
    )
    with pytest.raises(CheckpointError, match=r"\(none named\)"):
        make_registry(site).model_for({})


def test_architecture_that_two_fall_back_to_is_an_error(site: Site) -> None:
    for name in ("one", "two"):
        fields = f"model('{name}'), claims=lambda config: True"
        site.install(
            name,
            "from dataclasses import replace\n"
            f"@hookimpl\ndef llmplug_models(): return [replace({fields})]",
        )
    with pytest.raises(PluginError, match=r"'A' is ambiguous: dist-one:one .* and dist-two:two"):
        make_registry(site).model_for({"architectures": ["A"]})


# --- require ------------------------------------------------------------------------------------
def test_required_plugin_that_is_ok_is_no_error(site: Site) -> None:
    site.install("first", SAMPLER)
    make_registry(site, "first", "dist-first:first")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("1 / 0", "is broken: ZeroDivisionError"),
        ("from llmplug import Nothing", "is incompatible: llmplug"),
        ("@hookimpl\ndef llmplug_samplers(): return [sampler('taken')]", "is in conflict: sampler"),
    ],
)
def test_required_plugin_that_is_not_ok_is_an_error(site: Site, code: str, reason: str) -> None:
    install(site, "earlier", "samplers", "sampler('taken')")
    path = site.install("first", code, version="2.5")
    with pytest.raises(PluginError) as caught:
        make_registry(site, "first")
    message = str(caught.value)
    assert message.startswith(f"plugins.require: plugin 'first' of dist-first 2.5 {reason}")
    assert str(path) in message or "write dist-earlier:earlier under plugins.block" in message


def test_required_plugin_that_is_blocked_is_an_error(site: Site) -> None:
    site.install("first", SAMPLER)
    with pytest.raises(PluginError, match="is blocked: blocked by the config"):
        make_registry(site, "first", block=("first",))


def test_required_plugin_that_is_not_installed_is_an_error(site: Site) -> None:
    site.install("first", SAMPLER)
    with pytest.raises(PluginError, match="'frist' is not installed; did you mean 'first'"):
        make_registry(site, "frist")


def test_required_name_that_is_ambiguous_is_an_error(site: Site) -> None:
    site.install("twin", SAMPLER, distribution="one")
    site.install("twin", TEMPLATE, distribution="two")
    with pytest.raises(PluginError, match="'twin' is ambiguous: one:twin and two:twin"):
        make_registry(site, "twin")
