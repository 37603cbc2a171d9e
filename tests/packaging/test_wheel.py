"""The one wheel: what is in it, and that it works where nothing else of us is."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

from packaging.requirements import Requirement

from tests.packaging.projects import ENTRY_POINTS, FOLDERS, PROJECT, ROOT, Environment


def is_made_at_run_time(path: Path) -> bool:
    return "__pycache__" in path.parts or path.suffix == ".pyc"


def test_wheel_holds_the_packages_and_nothing_else(bundled_wheel: Path) -> None:
    names = set(zipfile.ZipFile(bundled_wheel).namelist())
    (dist_info,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
    expected = {
        str(path.relative_to(folder.parent))
        for folder in [ROOT / "llmplug", *FOLDERS]
        for path in folder.rglob("*")
        if path.is_file() and not is_made_at_run_time(path)
    }
    assert {name for name in names if not name.startswith(dist_info)} == expected
    assert {name for name in names if name.startswith(dist_info)} == {
        f"{dist_info}/{name}"
        for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")
    }


def test_wheel_needs_no_compiler_and_no_test_tools(bundled_wheel: Path) -> None:
    assert bundled_wheel.name.endswith("-py3-none-any.whl")
    archive = zipfile.ZipFile(bundled_wheel)
    (metadata,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
    lines = archive.read(metadata).decode().split("\n\n")[0].splitlines()
    required = {
        Requirement(line.removeprefix("Requires-Dist: "))
        for line in lines
        if line.startswith("Requires-Dist: ") and "extra ==" not in line
    }
    assert required == {Requirement(line) for line in PROJECT["project"]["dependencies"]}


def test_installed_wheel_lists_every_bundled_plugin_as_ok(
    bundled_wheel: Path, make_environment: Callable[[], Environment]
) -> None:
    environment = make_environment()
    environment.install(bundled_wheel)
    listed = {plugin["name"]: plugin for plugin in environment.list_plugins()}
    assert {name: plugin["state"] for name, plugin in listed.items()} == dict.fromkeys(
        ENTRY_POINTS, "ok"
    )
    assert {plugin["distribution"] for plugin in listed.values()} == {"llmplug"}
    environment.llmplug("plugins", "--check")
