"""A server under test: start it, wait until it answers, watch what it takes, stop it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Self

import httpx
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.processes import list_tree, read_cpu_by_role, read_rss

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from types import TracebackType

SAMPLE_S = 0.2  # between two looks at the memory
STOP_TIMEOUT_S = 30.0
# Where servers say that they are ready; the first one that there is decides.
READY_PATHS = ("/ready", "/health", "/v1/models")
# Where they say what they are: the name of the field.
VERSION_FIELDS = {"/version": "version", "/props": "build_info"}


def find_free_port() -> int:
    """Return a port that nobody listens on, for a server that cannot choose one itself."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


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

    @property
    def pid(self) -> int:
        """Of the process that was started."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Its exit status; None: it runs."""
        return self._process.poll()

    @property
    def cpu_s(self) -> dict[str, float]:
        """Processor seconds so far, by role: see `processes.list_roles`."""
        return read_cpu_by_role(self._process.pid)

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


def wait_ready(url: str, timeout_s: float, check_alive: Callable[[], None] = lambda: None) -> None:
    """Wait for 200 from the first of READY_PATHS that the server has.

    Raises:
        TimeoutError: it did not come in time.
    """
    deadline = time.monotonic() + timeout_s
    paths = list(READY_PATHS)
    with httpx.Client(base_url=url, timeout=5.0, trust_env=False) as http:
        while time.monotonic() < deadline:
            check_alive()
            try:
                status = http.get(paths[0]).status_code
            except httpx.TransportError:
                status = 0
            if status == httpx.codes.OK:
                return
            if httpx.codes.is_client_error(status) and len(paths) > 1:
                del paths[0]
                continue
            time.sleep(0.05)
    raise TimeoutError(f"{url}{paths[0]} is not ready after {timeout_s:.0f} s")


def first_model(url: str) -> str:
    """Return the id of the first model that the server lists.

    Raises:
        RuntimeError: it lists none.
    """
    answer = httpx.get(f"{url}/v1/models", timeout=30.0, trust_env=False)
    try:
        return str(answer.raise_for_status().json()["data"][0]["id"])
    except (httpx.HTTPStatusError, ValueError, LookupError, TypeError) as error:
        raise RuntimeError(f"{url}/v1/models lists no model: name one") from error


def read_version(url: str) -> str | None:
    """Return what the server says it is, None where it does not say."""
    with httpx.Client(base_url=url, timeout=5.0, trust_env=False) as http:
        for path, field in VERSION_FIELDS.items():
            try:
                return str(http.get(path).raise_for_status().json()[field])
            except (httpx.HTTPError, ValueError, LookupError, TypeError):
                continue
    return None


def read_engine_s(url: str) -> dict[str, float]:
    """Return the seconds of each phase of our engines so far; empty where nobody counts them."""
    answer = httpx.get(f"{url}/metrics", timeout=30.0, trust_env=False)
    if answer.status_code != httpx.codes.OK:
        return {}
    seconds: dict[str, float] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            if sample.name == "llmplug_engine_seconds_total":
                phase = sample.labels["phase"]
                seconds[phase] = seconds.get(phase, 0.0) + sample.value
    return seconds
