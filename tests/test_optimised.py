"""The suite under `python -O`, where no `assert` of ours runs; those of tests still do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# What guards against requests, configs, files and plugins. `make test-optimised` runs all.
SUBSET = (
    "tests/engine/test_block_pool.py",
    "tests/engine/test_limits.py",
    "tests/plugins/test_safetensors.py",
    "tests/server/test_body.py",
    "tests/test_plugins.py",
)
# pytest says so of its own plugins, too.
NO_ASSERT = "ignore:assertions not in test modules:pytest.PytestConfigWarning"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", NO_ASSERT]
    env = {**os.environ, "PYTHONOPTIMIZE": "1"}
    return subprocess.run(
        [*argv, *arguments], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )


def test_assertions_of_tests_are_still_made(tmp_path: Path) -> None:
    path = tmp_path / "test_probe.py"
    path.write_text(
        "def test_no():\n    assert 1 == 2\ndef test_yes():\n    assert not __debug__\n"
    )
    done = run(str(path))
    assert "1 failed, 1 passed" in done.stdout, done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)  # of a suite within the suite
def test_nothing_rests_on_an_assert() -> None:
    done = run("-x", *SUBSET)
    assert done.returncode == 0, done.stdout[-4000:]
