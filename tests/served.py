"""`llmplug serve` in processes of its own, as a user starts it."""

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

import httpx
import openai

from benchmarks.processes import list_tree

DEADLINE_S = 120.0


@dataclass
class Process:
    """A server that runs; its log is in a file."""

    popen: subprocess.Popen[bytes]
    log: Path
    url: str = ""

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

    def is_ready(self) -> bool:
        return httpx.get(f"{self.url}/ready", timeout=DEADLINE_S).status_code == 200

    def metric(self, name: str) -> float:
        for line in httpx.get(f"{self.url}/metrics", timeout=DEADLINE_S).text.splitlines():
            if line.startswith(name):
                return float(line.rsplit(" ", 1)[1])
        raise KeyError(name)

    def engine_pids(self) -> list[int]:
        return self.pids_of(b"engine")

    def pids_of(self, command: bytes) -> list[int]:
        """Processes of the server that run a command of `llmplug`."""
        return [
            pid
            for pid in list_tree(self.popen.pid)
            if b"\0%b\0" % command in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=DEADLINE_S
        )


def launch(config: str, folder: Path, **environment: str) -> Process:
    """Start a server, and wait until it listens.

    Args:
        config: text of its file, with port 0.
        folder: for that file and the log.
    """
    path, log = folder / "config.yaml", folder / "log.txt"
    path.write_text(config)
    with log.open("wb") as file:
        popen = subprocess.Popen(
            [sys.executable, "-m", "llmplug", "serve", "--config", str(path)],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
        )
    process = Process(popen, log)
    process.until(process.find_url)
    return process


@contextmanager
def serving(config: str, folder: Path, **environment: str) -> Iterator[Process]:
    """A server that listens, and may still load; it is ended afterwards."""
    process = launch(config, folder, **environment)
    try:
        yield process
    finally:
        process.popen.terminate()
        process.popen.wait(DEADLINE_S)
