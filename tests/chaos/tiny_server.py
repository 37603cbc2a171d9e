"""A server of a tiny random model, as a user would start it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.server import ServerProcess, find_free_port
from benchmarks.soak.__main__ import write_tiny_config

START_TIMEOUT_S = 120.0


@contextmanager
def open_tiny(folder: Path, *sets: str) -> Iterator[ServerProcess]:
    """A server that is ready, with `--set` of these; it is stopped afterwards."""
    port = find_free_port()
    command = [sys.executable, "-m", "llmplug", "serve"]
    command += ["--config", str(write_tiny_config(folder, port))]
    for value in sets:
        command += ["--set", value]
    url = f"http://127.0.0.1:{port}"
    with ServerProcess(command, url, folder / "log.txt", START_TIMEOUT_S) as server:
        yield server
