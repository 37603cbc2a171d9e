"""One server for all tests that attack it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .tiny_server import TinyServer, serving_tiny


@pytest.fixture(scope="session")
def tiny_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyServer]:
    with serving_tiny(tmp_path_factory.mktemp("attacked")) as server:
        yield server
