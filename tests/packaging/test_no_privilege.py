"""Bundled plugins have no privilege: as strangers, beside a core without plugins, they work.

Every bundled plugin is copied into a project of its own, with its own entry point and version, and
built. The core is built from a tree without `plugins/`. The kit that strangers test with then runs
over all of them there, and so do the plugins' own tests where the kit wants to be told more.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.packaging.projects import ENTRY_POINTS, ROOT, Environment, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

# What the kit cannot try of a spec alone -> the file of tests that calls it, and tells it more.
WANT_MORE = {
    "bert": "test_bert",
    "chatml": "test_chatml",
    "dry": "test_dry",
    "dynamic_temperature": "test_dynamic_temperature",
    "gguf": "test_gguf",
    "harmony": "dialects/test_harmony",
    "hub": "test_hub",
    "llama": "test_models",
    "mirostat": "test_mirostat",
    "mistral": "test_models",
    "modernbert": "test_bert",
    "pypi": "test_pypi",
    "qwen2": "test_models",
    "qwen3": "test_models",
    "safetensors": "test_safetensors",
    "standard": "test_standard_samplers",
    "top_n_sigma": "test_top_n_sigma",
    "transformers": "test_transformers_fallback",
    "triton": "",  # without a GPU none of its kernels is tried
    "typical_p": "test_typical_p",
    "xtc": "test_xtc",
}
# Of these files the tests that do; of sources and the fallback, which have no check, one that uses
# the whole.
OF_THE_KIT = (
    "what_holds_for_every or several_in_one or converted_model_comes_back or properties_of "
    "or is_fetched_and_found or is_fetched_verified or (same_tokens_as_generate and neox)"
)


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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tests, without the sources beside them: they can only import what is installed."""
    folder = tmp_path_factory.mktemp("tests")
    ignore = shutil.ignore_patterns("__pycache__", "packaging", "benchmarks")
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def run_tests(environment: Environment, folder: Path, *options: str) -> dict[str, list[bool]]:
    """Run tests, of which none may fail; return for each class or file which were not skipped."""
    report = folder / "report.xml"
    pytest_here = [environment.python, "-m", "pytest", "-q", "-m", "not slow"]
    run(*pytest_here, f"--junitxml={report}", *options, cwd=folder, OMP_NUM_THREADS="1")
    were_run: dict[str, list[bool]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = case.attrib["classname"].rpartition(".")[2]
        were_run.setdefault(name, []).append(case.find("skipped") is None)
    return were_run


def test_each_passes_the_kit_as_a_stranger(with_strangers: Environment, tmp_path: Path) -> None:
    names = [f"--llmplug-plugin={name}" for name in ENTRY_POINTS]
    kit = ["-p", "llmplug.testing.pytest_plugin", "--llmplug-quick"]
    were_run = run_tests(with_strangers, tmp_path, *kit, *names)
    assert were_run.keys() == ENTRY_POINTS.keys()
    assert {name for name, results in were_run.items() if not any(results)} == WANT_MORE.keys()


def test_what_the_kit_wants_more_of_passes_its_own_tests(
    with_strangers: Environment, folder: Path
) -> None:
    files = sorted({file for file in WANT_MORE.values() if file})
    were_run = run_tests(
        with_strangers, folder, "-k", OF_THE_KIT, *(f"tests/plugins/{file}.py" for file in files)
    )
    assert sorted(were_run) == sorted(file.rpartition("/")[2] for file in files)
    assert all(all(results) for results in were_run.values())
