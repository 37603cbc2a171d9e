"""Projects, wheels and environments, all made offline from what is installed already."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.server import ServerProcess, find_free_port

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = [
    ROOT / path
    for path in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    if path != "llmplug"
]
START_TIMEOUT_S = 240.0  # of a server, on a busy machine
ENTRY_POINTS: dict[str, str] = PROJECT["project"]["entry-points"]["llmplug"]

STRANGER = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "stranger-{name}"
version = "7.0"
dependencies = ["llmplug"]

[project.entry-points.llmplug]
{name} = "{package}"

[tool.hatch.build.targets.wheel]
packages = ["{package}"]
artifacts = ["*"]
"""


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command to its end; a failure shows what it printed."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Environment:
    """A virtual environment that has our dependencies, but no llmplug until it is installed."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def install(self, *wheels: Path) -> None:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
        options = ["--quiet", "--no-index", "--no-deps"]
        run(*pip, "--python", self.python, "install", *options, *wheels, cwd=self.folder)

    def llmplug(self, *arguments: str) -> str:
        return run(self.folder / "bin" / "llmplug", *arguments, cwd=self.folder)

    def list_plugins(self) -> list[dict[str, Any]]:
        listed = json.loads(self.llmplug("plugins", "--json"))
        return listed["plugins"] if isinstance(listed, dict) else listed

    @contextmanager
    def serve(self, config: Mapping[str, Any], folder: Path) -> Iterator[httpx.Client]:
        """Serve a config; its file, its log and what it caches go into `folder`."""
        port, path = find_free_port(), folder / "config.yaml"
        path.write_text(json.dumps({**config, "server": {"port": port}}))
        command = [str(self.folder / "bin" / "llmplug"), "serve", "--config", str(path)]
        url = f"http://127.0.0.1:{port}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
            with (
                ServerProcess(command, url, folder / "log", START_TIMEOUT_S),
                httpx.Client(base_url=url, timeout=60) as client,
            ):
                yield client


def build_wheel(project: Path, out: Path) -> Path:
    """Build a project's wheel with the installed hatchling."""
    (wheel,) = build_wheels([project], out)
    return wheel


def build_wheels(projects: Sequence[Path], out: Path) -> list[Path]:
    """Build the wheels of projects, one after the other, in one process."""
    code = """
import os, sys
from hatchling.build import build_wheel
out, *projects = sys.argv[1:]
for project in projects:
    os.chdir(project)
    print("built", build_wheel(out))
"""
    printed = run(sys.executable, "-c", code, out, *projects, cwd=out)
    words = [line.split() for line in printed.splitlines()]
    return [out / line[1] for line in words if line[:1] == ["built"]]
