"""What is read from outside is read or refused: no crash, no hang, no memory without a bound."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .limited import run_limited

NAMES = (
    "fuzz_json_bodies",
    "fuzz_safetensors",
    "fuzz_indexes",
    "fuzz_model_configs",
    "fuzz_gguf",
    "fuzz_config_files",
    "fuzz_tokenizers",
)


pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads /proc")


@pytest.mark.parametrize("name", NAMES)
def test_read_or_refused(tmp_path: Path, name: str) -> None:
    run_limited("tests.fuzz.inputs", name, tmp_path)


@pytest.mark.parametrize(("name", "words"), [("hoard", "MemoryError"), ("crash", "KeyError")])
def test_the_limits_hold(tmp_path: Path, name: str, words: str) -> None:
    run_limited("tests.fuzz.misdeeds", "behave", tmp_path)
    with pytest.raises(AssertionError, match=words):
        run_limited("tests.fuzz.misdeeds", name, tmp_path)
