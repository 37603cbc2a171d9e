"""The front door of the test kit: what it names is there, and what it does without."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from llmplug import testing
from llmplug.testing.expect import expect, need

IMPORT_QUIETLY = """
import sys
import llmplug.testing
for name in llmplug.testing.__all__:
    getattr(llmplug.testing, name)
sys.exit(", ".join({"hypothesis", "transformers", "pytest", "sanic"} & sys.modules.keys()) or 0)
"""


def test_every_name_is_there_and_says_what_it_does() -> None:
    assert set(testing.__all__) == set(dir(testing))
    for name in testing.__all__:
        assert getattr(testing, name).__doc__, name
        assert name not in {"check", *dir(object)}
    checks = [name for name in testing.__all__ if name.startswith("check_")]
    assert [name for name in checks if f"    {name} " not in testing.__doc__] == []


def test_the_page_tells_of_every_check() -> None:
    page = (Path(__file__).parents[2] / "docs" / "plugins" / "testing.md").read_text()
    told = set(re.findall(r"^\| `(check_\w+)` \|", page, re.MULTILINE))
    assert told == {name for name in testing.__all__ if name.startswith("check_")}


def test_a_wrong_name_is_said() -> None:
    with pytest.raises(AttributeError, match=r"'llmplug\.testing' has no attribute 'check_modle'"):
        testing.check_modle  # noqa: B018 - it raises


def test_heavy_libraries_are_imported_by_the_checks_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_QUIETLY], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_library_that_is_missing_is_said_to_come_with_the_extra() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'llmplug\[test-kit\]'"):
        need("no_such_library")
    assert need("sys") is sys


def test_checks_hold_without_asserts() -> None:
    """Under `python -O` a check still fails."""
    code = "from llmplug.testing.expect import expect; expect(False, 'say so')"
    done = subprocess.run(
        [sys.executable, "-O", "-c", code], capture_output=True, text=True, check=False
    )
    assert "AssertionError: say so" in done.stderr
    expect(True, "never seen")
