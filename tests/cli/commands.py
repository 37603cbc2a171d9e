"""What tests of commands share."""

from __future__ import annotations

from pathlib import Path

import pytest

Capture = pytest.CaptureFixture[str]
SETTINGS = "device: cpu\n  cache: {memory: 4MiB}\n"


def write_config(path: Path, source: object, more: str = SETTINGS) -> str:
    """Write the config of a model; return its path."""
    path.write_text(f"log: {{level: error}}\nmodels:\n- source: {source}\n  {more}")
    return str(path)
