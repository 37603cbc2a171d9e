"""A server under test: start it, wait until it answers, watch its memory, stop it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import httpx

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

SAMPLE_S = 0.2  # between two looks at the memory
STOP_TIMEOUT_S = 30.0


def find_free_port() -> int:
    """Return a port that nobody listens on, for a server that cannot choose one itself."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def list_tree(pid: int) -> list[int]:
    """Return a process and all its descendants; empty when it is gone."""
    try:
        children = [
            int(child)
            for tasks in Path(f"/proc/{pid}/task").iterdir()
            for child in (tasks / "children").read_text().split()
        ]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [pid, *(member for child in children for member in list_tree(child))]


def read_rss(pid: int) -> int:
    """Return the resident bytes of one process, 0 when it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    sizes = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(sizes[0]) * 1024 if sizes else 0  # a zombie has none


class ServerProcess:
    """A server as a child process, stopped with all its children when the block ends.

    Attributes:
        url: where it answers.
        ready_s: seconds from its start to its first ready answer.
        peak_rss_bytes: most memory that its processes held together; pages that they share are
            counted once for each.
    """

    def __init__(self, command: Sequence[str], url: str, log: Path, timeout_s: float) -> None:
        self.url = url
        self.ready_s = 0.0
        self.peak_rss_bytes = 0
        self._command = command
        self._log = log
        self._timeout_s = timeout_s
        self._stopping = threading.Event()

    def __enter__(self) -> Self:
        started = time.monotonic()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._watcher = threading.Thread(target=self._watch_memory, daemon=True)
        self._watcher.start()
        try:
            wait_ready(self.url, self._timeout_s, self._check_alive)
        except BaseException:
            self._stop()
            raise
        self.ready_s = time.monotonic() - started
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()

    def _check_alive(self) -> None:
        if self._process.poll() is not None:
            tail = self._log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"the server ended with {self._process.returncode}:\n{tail}")

    def _watch_memory(self) -> None:
        while not self._stopping.wait(SAMPLE_S):
            rss = sum(read_rss(pid) for pid in list_tree(self._process.pid))
            self.peak_rss_bytes = max(self.peak_rss_bytes, rss)

    def _stop(self) -> None:
        self._stopping.set()
        self._watcher.join()
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with contextlib.suppress(ProcessLookupError):  # children that it left behind
            os.killpg(self._process.pid, signal.SIGKILL)


def wait_ready(url: str, timeout_s: float, check_alive: object = None) -> None:
    """Wait for 200 from /ready, or from /v1/models where there is no such route.

    Raises:
        TimeoutError: it did not come in time.
    """
    deadline = time.monotonic() + timeout_s
    path = "/ready"
    with httpx.Client(base_url=url, timeout=5.0, trust_env=False) as http:
        while time.monotonic() < deadline:
            if callable(check_alive):
                check_alive()
            try:
                status = http.get(path).status_code
            except httpx.TransportError:
                status = 0
            if status == httpx.codes.OK:
                return
            if status == httpx.codes.NOT_FOUND:
                path = "/v1/models"
            time.sleep(0.05)
    raise TimeoutError(f"{url}{path} is not ready after {timeout_s:.0f} s")


def first_model(url: str) -> str:
    """Return the id of the first model that the server lists."""
    answer = httpx.get(f"{url}/v1/models", timeout=30.0, trust_env=False).raise_for_status()
    return str(answer.json()["data"][0]["id"])
