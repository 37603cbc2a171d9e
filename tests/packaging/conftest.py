"""Fixtures for packaging: wheels of the whole, of the core alone, and of strangers' plugins."""

from __future__ import annotations

import re
import shutil
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.packaging.projects import (
    ENTRY_POINTS,
    FOLDERS,
    ROOT,
    STRANGER,
    Environment,
    build_wheel,
    build_wheels,
)


@pytest.fixture(scope="session")
def make_environment(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[], Environment]:
    """Return a maker of environments that reach our site-packages through links, llmplug apart."""
    links = tmp_path_factory.mktemp("site-packages")
    for site in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for path in Path(site).iterdir():
            if not re.match(r"_?_?editable|llmplug|_editable", path.name) and path.suffix != ".pth":
                (links / path.name).symlink_to(path)

    def make() -> Environment:
        folder = tmp_path_factory.mktemp("environment")
        venv.create(folder, with_pip=False, symlinks=True)
        site = sysconfig.get_path("purelib", "venv", {"base": str(folder)})
        (Path(site) / "outside.pth").write_text(str(links))
        return Environment(folder)

    return make


@pytest.fixture(scope="session")
def bundled_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that users get."""
    return build_wheel(ROOT, tmp_path_factory.mktemp("bundled"))


@pytest.fixture(scope="session")
def core_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a tree without `plugins/`."""
    tree = tmp_path_factory.mktemp("core")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "llmplug", tree / "llmplug", ignore=ignore)
    for name in ("README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    text = (ROOT / "pyproject.toml").read_text()
    text = re.sub(r"^\[project\.entry-points\.llmplug\]\n([^\[\n].*\n)*", "", text, flags=re.M)
    text = re.sub(r'^    "plugins/.*",\n', "", text, flags=re.M)
    (tree / "pyproject.toml").write_text(text)
    return build_wheel(tree, tmp_path_factory.mktemp("core-wheel"))


@pytest.fixture(scope="session")
def stranger_wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Each bundled plugin, moved into a project of its own."""
    folders = {path.name: path for path in FOLDERS}
    projects = []
    for name, package in ENTRY_POINTS.items():
        project = tmp_path_factory.mktemp(f"stranger-{name}")
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(folders[package], project / package, ignore=ignore)
        (project / "pyproject.toml").write_text(STRANGER.format(name=name, package=package))
        projects.append(project)
    return build_wheels(projects, tmp_path_factory.mktemp("strangers"))


@pytest.fixture(scope="module")
def environment(
    projects: dict[str, Path],
    bundled_wheel: Path,
    make_environment: Callable[[], Environment],
    tmp_path_factory: pytest.TempPathFactory,
) -> Environment:
    """The whole, and a module's `projects`, installed side by side."""
    out = tmp_path_factory.mktemp("wheels")
    made = make_environment()
    made.install(bundled_wheel, *(build_wheel(project, out) for project in projects.values()))
    return made
