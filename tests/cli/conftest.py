"""Subcommands run in the process of the tests, `serve` too: nothing is forked from it."""

from __future__ import annotations

import pytest

from llmplug.server import supervisor


@pytest.fixture(autouse=True)
def _serve_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "supervise", lambda serve: serve(None))
