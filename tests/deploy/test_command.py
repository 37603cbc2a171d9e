"""`llmplug deploy` where it can do nothing."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

HAS_RAY = any(each.name == "ray" for each in distributions())


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        pytest.param(
            [],
            "pip install 'llmplug[ray]'",
            marks=pytest.mark.skipif(HAS_RAY, reason="Ray is installed"),
        ),
        (["--remove"], "--remove goes with --address"),
        (
            ["--set", "models.0.parallel.tensor=2", "--set", "models.0.parallel.nodes=2"],
            "models.0.parallel.nodes goes with --address",
        ),
        (["--set", "deploy.min_servers=2"], "2 is more than max_servers, 1"),
    ],
)
def test_what_is_missing_is_said(words: list[str], reason: str, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("models: [{source: /nowhere/model}]\n")
    command = [sys.executable, "-m", "llmplug", "deploy", "--config", str(config), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
