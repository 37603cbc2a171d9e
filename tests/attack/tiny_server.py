"""A server of a tiny checkpoint, in processes of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llmplug.attack.leftovers import find_processes
from llmplug.conformance.target import Target
from tests.served import Process, serving
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
class TinyServer(Process):
    """A server that runs, as programs that attack it see it."""

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def target(self) -> Target:
        return Target(url=self.url, model="tiny", api_key=KEY, timeout_s=DEADLINE_S)

    def num_files(self) -> int:
        """Open files, sockets and pipes of all its processes."""
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in find_processes(self.pid))


@contextmanager
def serving_tiny(folder: Path) -> Iterator[TinyServer]:
    """A server that is ready; it is ended afterwards."""
    source = make_checkpoint("llama", folder / "model", max_position_embeddings=CONTEXT_LENGTH)
    config = CONFIG.format(key=KEY, source=source, files=folder / "files")
    # Without asserts: no attack may be withstood by one alone.
    with serving(config, folder, OMP_NUM_THREADS="1", PYTHONOPTIMIZE="1") as process:
        server = TinyServer(process.popen, process.log, process.url)
        server.until(lambda: server.target.ask("GET", "/ready").status == 200)
        yield server
