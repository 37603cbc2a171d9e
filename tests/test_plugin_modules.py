"""Packages are imported anew when any of their files has changed, and come back if that fails."""

from __future__ import annotations

import sys
from contextlib import suppress

import pytest
from fake_plugins import Site

from llmplug import plugins
from llmplug.plugin_modules import find_changed, imported_anew, stamp_packages
from llmplug.plugin_report import PluginReport

TEMPLATES = "@hookimpl\ndef llmplug_chat_templates():\n    return [template('one')]\n"
SAMPLERS = "@hookimpl\ndef llmplug_samplers():\n    return [sampler('one')]\n"


def load(site: Site) -> PluginReport:
    return plugins.load_all(entry_points=site.entry_points())


def install_package(site: Site) -> None:
    """A plugin of several files, one of them no module."""
    folder = site.folder / "fake_pack"
    folder.mkdir()
    site.modules += ["fake_pack", "fake_pack.part"]
    head = "from llmplug import ChatTemplateSpec, hookimpl\nfrom fake_pack.part import make\n"
    hook = "@hookimpl\ndef llmplug_chat_templates():\n    return [make(ChatTemplateSpec)]\n"
    (folder / "__init__.py").write_text(head + hook)
    (folder / "part.py").write_text(
        "from pathlib import Path\n"
        "SOURCE = Path(__file__).with_name('chat.jinja').read_text()\n"
        "def make(kind):\n    return kind(name='pack', source=SOURCE, fits=bool)\n"
    )
    (folder / "chat.jinja").write_text("{{ messages }}")
    site.describe("dist-pack", "[llmplug]\npack = fake_pack\n")


@pytest.mark.parametrize("name", ["__init__.py", "part.py", "chat.jinja", "new.py"])
def test_any_file_of_a_package_counts(site: Site, name: str) -> None:
    install_package(site)
    report = load(site)
    stamps = stamp_packages(report)
    assert find_changed(stamps, report) == set()
    path = site.folder / "fake_pack" / name
    path.write_text((path.read_text() if path.exists() else "") + "  ")
    assert find_changed(stamps, report) == {"fake_pack"}


def test_a_file_that_is_gone_counts(site: Site) -> None:
    install_package(site)
    report = load(site)
    stamps = stamp_packages(report)
    (site.folder / "fake_pack/chat.jinja").unlink()
    assert find_changed(stamps, report) == {"fake_pack"}


def test_new_code_or_the_old_modules(site: Site) -> None:
    install_package(site)
    (old,) = load(site).plugins
    modules = {name: sys.modules[name] for name in ("fake_pack", "fake_pack.part")}
    (site.folder / "fake_pack/chat.jinja").write_text("new")
    with suppress(ValueError), imported_anew({"fake_pack"}):
        (tried,) = load(site).plugins
        assert tried.offers[0].spec.source == "new"
        raise ValueError("it is not wanted")
    assert {name: sys.modules[name] for name in modules} == modules
    with imported_anew({"fake_pack"}):
        (new,) = load(site).plugins
    assert (old.offers[0].spec.source, new.offers[0].spec.source) == ("{{ messages }}", "new")
    assert all(sys.modules[name] is not module for name, module in modules.items())


def test_others_are_left_alone(site: Site) -> None:
    install_package(site)
    site.install("other", SAMPLERS)
    load(site)
    other = sys.modules["fake_dist_other_other"]
    with imported_anew({"fake_pack"}):
        assert sys.modules["fake_dist_other_other"] is other
        load(site)
    assert sys.modules["fake_dist_other_other"] is other


def test_engines_do_not_mind_other_parsers_and_templates(site: Site) -> None:
    site.install("sampler", SAMPLERS)
    alone = load(site)
    site.install("template", TEMPLATES, version="1.0")
    both = load(site)
    assert alone.engine_fingerprint() == both.engine_fingerprint()
    assert alone.fingerprint() != both.fingerprint()
    site.install("second", SAMPLERS.replace("one", "two"))
    assert load(site).engine_fingerprint() != both.engine_fingerprint()
