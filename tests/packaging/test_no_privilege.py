"""Bundled plugins have no privilege: as strangers, beside a core without plugins, they work.

Every bundled plugin is copied into a project of its own, with its own entry point and version, and
built. The core is built from a tree without `plugins/`. The plugins' own tests then run there.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.packaging.projects import ENTRY_POINTS, ROOT, Environment, run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def core_alone(core_wheel: Path, make_environment: Callable[[], Environment]) -> Environment:
    environment = make_environment()
    environment.install(core_wheel)
    return environment


@pytest.fixture(scope="module")
def with_strangers(
    core_wheel: Path, stranger_wheels: list[Path], make_environment: Callable[[], Environment]
) -> Environment:
    environment = make_environment()
    environment.install(core_wheel, *stranger_wheels)
    return environment


def test_core_alone_knows_no_plugin(core_alone: Environment) -> None:
    assert core_alone.list_plugins() == []


def test_strangers_are_listed_like_anybody(with_strangers: Environment) -> None:
    listed = {plugin["name"]: plugin for plugin in with_strangers.list_plugins()}
    assert {
        name: (plugin["state"], plugin["distribution"], plugin["version"])
        for name, plugin in listed.items()
    } == {name: ("ok", f"stranger-{name}", "7.0") for name in ENTRY_POINTS}


@pytest.mark.parametrize("tests", ["test_standard_samplers.py", "test_models.py"])
def test_plugins_pass_their_own_tests_as_strangers(
    tests: str, with_strangers: Environment, tmp_path: Path
) -> None:
    # Without the sources beside them, the tests can only import what is installed.
    ignore = shutil.ignore_patterns("__pycache__", "packaging", "benchmarks")
    shutil.copytree(ROOT / "tests", tmp_path / "tests", ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    pytest_here = [with_strangers.python, "-m", "pytest", "-q", "-m", "not slow"]
    output = run(*pytest_here, f"tests/plugins/{tests}", cwd=tmp_path, OMP_NUM_THREADS="1")
    assert " passed" in output
