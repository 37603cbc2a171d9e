"""A server of a tiny checkpoint, in processes of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llmplug.attack.leftovers import find_processes
from llmplug.conformance.target import Target
from tests.tiny import make_checkpoint

DEADLINE_S = 60.0
CONTEXT_LENGTH = 1024
KEY = "a-key-of-the-tests"
CONFIG = """
server:
  port: 0
  drain_s: 5
  api_keys: [{key}]
  responses: {{path: memory}}
  batches: {{path: {files}}}
models:
  - source: {source}
    name: tiny
    threads: 1
    cache: {{memory: 32MiB}}
"""


@dataclass
class TinyServer:
    """A server that runs; its log is in a file."""

    popen: subprocess.Popen[bytes]
    log: Path
    url: str = ""

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def target(self) -> Target:
        return Target(url=self.url, model="tiny", api_key=KEY, timeout_s=DEADLINE_S)

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition, with a deadline; a server that ends meanwhile is an error."""
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert self.popen.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def find_url(self) -> bool:
        match = re.search(r"listening on (http://\S+)", self.log.read_text())
        self.url = match[1] if match else ""
        return bool(match)

    def num_files(self) -> int:
        """Open files, sockets and pipes of all its processes."""
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in find_processes(self.pid))


@contextmanager
def serving_tiny(folder: Path) -> Iterator[TinyServer]:
    """A server that is ready; it is ended afterwards."""
    source = make_checkpoint("llama", folder / "model", max_position_embeddings=CONTEXT_LENGTH)
    config, log = folder / "config.yaml", folder / "log.txt"
    config.write_text(CONFIG.format(key=KEY, source=source, files=folder / "files"))
    with log.open("wb") as file:
        popen = subprocess.Popen(
            [sys.executable, "-m", "llmplug", "serve", "--config", str(config)],
            stdout=file,
            stderr=subprocess.STDOUT,
            # Without asserts: no attack may be withstood by one alone.
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONOPTIMIZE": "1"},
        )
    server = TinyServer(popen, log)
    try:
        server.until(server.find_url)
        server.until(lambda: server.target.ask("GET", "/ready").status == 200)
        yield server
    finally:
        popen.terminate()
        popen.wait(DEADLINE_S)
