"""Subcommands run in the process of the tests, `serve` too: nothing is forked from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import make_checkpoint

from llmplug.server import supervisor


@pytest.fixture(autouse=True)
def _serve_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "supervise", lambda serve: serve(None))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("llama", tmp_path_factory.mktemp("made") / "tiny-one")
