"""Plugins installed for one test: real modules and metadata, in a folder of their own."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from importlib import metadata
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from llmplug import plugins
from llmplug.plugin_report import Plugin

GOOD = """
@hookimpl
def llmplug_samplers():
    return [sampler("good")]
"""
HEAD = """\
from llmplug import ChatTemplateSpec, KernelSpec, LoaderSpec, ModelSpec, SamplerSpec, SourceSpec
from llmplug import ToolParserSpec, hookimpl
from pydantic import BaseModel, create_model

def sampler(name, **fields):
    params = create_model("Params", **{f"strength_{name}": (float, 0.0)})
    return SamplerSpec(**{"name": name, "stage": "bias", "params": params, "make": print,
                          "is_active": bool, **fields})

def template(name):
    return ChatTemplateSpec(name=name, source="{{ messages }}", fits=bool)

def model(name, *architectures):
    return ModelSpec(name=name, architectures=architectures, describe=dict, weights=dict,
                     build=dict)

def loader(name, suffix):
    return LoaderSpec(name=name, claims=lambda path: path.suffix == suffix, open=open)

def source(scheme):
    return SourceSpec(scheme=scheme, syntax=f"{scheme}:...", find=print, fetch=print)

def kernel(op, name):
    return KernelSpec(op=op, name=name, supports=print, load=dict)
"""


class Site:
    """A folder on sys.path; `install` puts a distribution with one module into it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.modules: list[str] = []

    def install(
        self,
        name: str,
        code: str,
        *,
        distribution: str | None = None,
        version: str = "1.0",
        value: str | None = None,
        requires: str | None = None,
    ) -> Path:
        """Install a plugin.

        Args:
            name: of the entry point.
            code: of the module, after `HEAD`.
            distribution: `dist-<name>` by default.
            value: of the entry point; the module by default.
            requires: what the distribution needs.
        """
        distribution = distribution or f"dist-{name}"
        module = f"fake_{distribution}_{name}".replace("-", "_")
        self.modules.append(module)
        path = self.folder / f"{module}.py"
        path.write_text(HEAD + textwrap.dedent(code))
        points = f"[llmplug]\n{name} = {value or module}\n"
        self.describe(distribution, points, version=version, requires=requires)
        return path

    def describe(
        self,
        distribution: str,
        entry_points: str,
        *,
        version: str = "1.0",
        requires: str | None = None,
    ) -> None:
        """Write a distribution's metadata, with this text as its entry_points.txt."""
        info = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
            + ("" if requires is None else f"Requires-Dist: {requires}\n")
        )
        (info / "entry_points.txt").write_text(entry_points)

    def entry_points(self) -> list[EntryPoint]:
        """Return the entry points of this folder alone."""
        found = metadata.distributions(path=[str(self.folder)])
        return [point for dist in found for point in dist.entry_points]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """An empty folder for fake distributions, on sys.path during the test."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    site = Site(folder)
    yield site
    for name in site.modules:
        sys.modules.pop(name, None)


def load_all(site: Site, **options: Any) -> dict[str, Plugin]:
    """Load what is installed, by long name."""
    report = plugins.load_all(entry_points=site.entry_points(), **options)
    return {plugin.found.long_name: plugin for plugin in report.plugins}


def hook(body: str, name: str = "llmplug_samplers", marker: str = "@hookimpl") -> str:
    """Write a hook's function."""
    return f"{marker}\ndef {name}: {body}" if "(" in name else f"{marker}\ndef {name}(): {body}"
