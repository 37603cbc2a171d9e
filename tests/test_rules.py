"""The rules of the house that are neither ruff's, mypy's nor import-linter's to check."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

import pytest

from docs.public_names import MODULES, list_names

from .unsafe_code import find_asserted_input, find_unsafe_code

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CORE = sorted((ROOT / "llmplug").rglob("*.py"))
PLUGINS = sorted((ROOT / "plugins").rglob("*.py"))
TOOLS = [
    path for room in ("benchmarks", "docs", "examples") for path in (ROOT / room).rglob("*.py")
]
PLUGIN_PACKAGES = sorted(path.parent for path in (ROOT / "plugins").glob("*/llmplug_*/__init__.py"))

FAMILIES = re.compile(r"llama|qwen|mistral|hermes|smollm|gemma|deepseek", re.IGNORECASE)
PUBLIC = {name: set(list_names(importlib.import_module(name))) for name in MODULES}
VAGUE_NAMES = {"utils", "util", "helpers", "common", "misc", "base", "manager"}


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def where(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"


def imported_modules(path: Path) -> Iterator[tuple[ast.AST, str]]:
    """Every module that a file imports, at any depth, under TYPE_CHECKING too."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node, str(node.module)


def is_public(node: ast.AST, module: str) -> bool:
    """Return whether all that is imported from a module of the core is on the page of names."""
    names = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
    is_for_tests = module == "llmplug.testing"
    return not is_for_tests and module in PUBLIC and PUBLIC[module].issuperset(names)


def test_core_names_no_family() -> None:
    files = [path for path in (ROOT / "llmplug").rglob("*") if path.suffix not in {".pyc", ""}]
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if FAMILIES.search(line) or FAMILIES.search(path.name)
    ]
    assert found == []


def test_nothing_runs_what_was_read() -> None:
    found = [
        f"{where(path, node)}: {name}"
        for path in CORE + PLUGINS + TOOLS
        for node, name in find_unsafe_code(parse(path))
    ]
    assert found == []


def test_no_function_guards_its_input_with_assert() -> None:
    found = [
        f"{where(path, node)}: {name}"
        for path in CORE + PLUGINS
        if "tests"
        not in path.relative_to(ROOT).parts  # of the plugins that `llmplug` writes for authors
        for node, name in find_asserted_input(parse(path))
    ]
    assert found == [], "an assert vanishes under python -O; raise an error of llmplug.errors"


def named_tests(text: str) -> list[tuple[str, str]]:
    """`path::name` of each test that a text names; the name may be left out."""
    named = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", text)
    return [(path, name) for path, name in named if Path(path).name.startswith("test_")]


def test_page_about_security_names_tests_that_are_there() -> None:
    named = named_tests((ROOT / "docs" / "security.md").read_text())
    assert len(named) > 60
    missing = []
    for path, name in named:
        file = ROOT / "tests" / path
        found = {node.name for node in parse(file).body if is_test(node)} if file.is_file() else ()
        if not found or (name and name not in found):
            missing.append(f"{path}::{name}")
    assert missing == []


def is_test(node: ast.stmt) -> TypeGuard[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Whether pytest collects it: a function of the module itself."""
    is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    return is_function and node.name.startswith("test_")


def test_every_attack_on_the_page_about_security_has_a_test() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    promised = page.split("## What holds it to that")[1].split("\n## ")[0]
    rows = [line for line in promised.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 40
    assert [row for row in rows if not any(name for _, name in named_tests(row))] == []


def test_files_and_classes_have_telling_names() -> None:
    found = [str(path.relative_to(ROOT)) for path in CORE + PLUGINS if path.stem in VAGUE_NAMES]
    for path in CORE + PLUGINS:
        found += [
            f"{where(path, node)}: {node.name}"
            for node in ast.walk(parse(path))
            if isinstance(node, ast.ClassDef)
            and re.search(r"^Base[A-Z]|(Impl|Manager|Helper|Utils)$", node.name)
        ]
    assert found == []


def test_core_imports_no_plugin() -> None:
    found = [
        f"{where(path, node)}: {name}"
        for path in CORE
        for node, name in imported_modules(path)
        if name.startswith("llmplug_")
    ]
    assert found == []


@pytest.mark.parametrize("package", PLUGIN_PACKAGES, ids=lambda path: path.name)
def test_plugin_imports_only_what_strangers_may(package: Path) -> None:
    found = []
    for path in sorted(package.rglob("*.py")):
        for node, name in imported_modules(path):
            room = name.split(".")[0]
            is_private = room == "llmplug" and not is_public(node, name)
            is_other = room.startswith("llmplug_") and room != package.name
            is_core_only = room in {"pluggy", "sanic", "yaml"}
            is_triton = room == "triton" and package.parent.name != "kernels"
            is_slow = room == "transformers" and package.name != "llmplug_transformers"
            if is_private or is_other or is_core_only or is_triton or is_slow:
                found.append(f"{where(path, node)}: {name}")
    assert found == []


def test_lists_of_plugins_agree() -> None:
    folders = {path.name for path in PLUGIN_PACKAGES}
    hatch = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    linter = PROJECT["tool"]["importlinter"]
    independent = next(c for c in linter["contracts"] if c["type"] == "independence")
    assert set(PROJECT["project"]["entry-points"]["llmplug"].values()) == folders
    assert {path for path in hatch if path != "llmplug"} == {
        str(path.relative_to(ROOT)) for path in PLUGIN_PACKAGES
    }
    assert set(linter["root_packages"]) == folders | {"llmplug"}
    assert set(independent["modules"]) == folders


def test_packages_say_that_they_are_typed() -> None:
    packages = [ROOT / "llmplug", *PLUGIN_PACKAGES]
    assert [path.name for path in packages if not (path / "py.typed").is_file()] == []


def test_packages_say_what_lives_there() -> None:
    rooms = [path for path in CORE + PLUGINS if path.name == "__init__.py"]
    silent = [
        str(path.relative_to(ROOT))
        for path in rooms
        if (ast.get_docstring(parse(path)) or "Placeholder.").startswith("Placeholder")
    ]
    assert silent == []


IMPORT_QUIETLY = """
import importlib, pkgutil, sys
for name in sys.argv[1:]:
    module = importlib.import_module(name)
    if name in ("llmplug.cli", "llmplug.server"):
        for found in pkgutil.walk_packages(module.__path__, name + "."):
            importlib.import_module(found.name)
    heavy = {"torch", "transformers", "triton"} & sys.modules.keys()
    if heavy:
        sys.exit(f"importing {name} imports {', '.join(sorted(heavy))}")
"""


def test_torch_waits_until_a_model_is_loaded() -> None:
    rooms = ["llmplug", "llmplug.specs", "llmplug.hookspecs", "llmplug.config"]
    rooms += ["llmplug.plugins", "llmplug.registry"]
    rooms += [path.name for path in PLUGIN_PACKAGES]
    rooms += ["llmplug.cli", "llmplug.server"]
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_QUIETLY, *rooms], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def hook_names() -> list[str]:
    tree = parse(ROOT / "llmplug" / "hookspecs.py")
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize("hook", hook_names())
def test_hook_is_documented_implemented_and_tested(hook: str) -> None:
    docs = "".join(path.read_text() for path in (ROOT / "docs").rglob("*.md"))
    plugins = "".join(path.read_text() for path in PLUGINS)
    tests = "".join(
        path.read_text() for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__)
    )
    assert hook in docs, "no page of docs/ tells about it: make docs"
    assert f"def {hook}(" in plugins, "no bundled plugin uses it"
    assert hook in tests, "no test uses it"


def test_license_is_apache() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text.splitlines()[1]
    assert "END OF TERMS AND CONDITIONS" in text
    assert PROJECT["project"]["license"] == "Apache-2.0"
