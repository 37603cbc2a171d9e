"""`llmplug serve` as two processes: a small one that stays, and one that serves and may die."""

from __future__ import annotations

import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from benchmarks.processes import list_tree, read_rss
from benchmarks.server import ServerProcess, find_free_port
from benchmarks.soak.__main__ import write_tiny_config
from benchmarks.soak.kills import find_engine, find_http
from tests.certificates import make_certificate

from .tiny_server import open_tiny

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc"),
]

DEADLINE_S = 120.0
MAX_PARENT_BYTES = 30 * 2**20


@pytest.fixture
def sockets(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which servers make the folders of their sockets."""
    folder = tmp_path_factory.mktemp("s")
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


def is_ready(http: httpx.Client) -> bool:
    try:
        return http.get("/ready").status_code == 200
    except httpx.ConnectError:  # it listens to nobody yet
        return False


def kill_http(server: ServerProcess) -> None:
    """Kill the process that serves, and wait until its engine has gone with it."""
    victim, engine = find_http(server.pid), find_engine(server.pid)
    assert victim is not None
    assert engine is not None
    os.kill(victim, signal.SIGKILL)
    until(lambda: not read_rss(engine))


def test_a_killed_http_process_is_back_with_its_engine_and_refuses_nobody(
    tmp_path: Path, sockets: Path
) -> None:
    body = {"model": "tiny", "prompt": "Once", "max_tokens": 8, "temperature": 0}
    admin_port = find_free_port()
    with (
        open_tiny(tmp_path, f"server.admin.port={admin_port}") as server,
        httpx.Client(base_url=server.url, timeout=DEADLINE_S) as http,
    ):
        before = http.post("/v1/completions", json=body).json()["choices"]
        kill_http(server)
        assert http.get("/live").status_code == 200  # made while nobody served, and answered
        until(lambda: is_ready(http))
        assert http.post("/v1/completions", json=body).json()["choices"] == before
        admin = httpx.get(f"http://127.0.0.1:{admin_port}/ready", timeout=DEADLINE_S)
        assert admin.status_code == 200
        assert len(list(sockets.iterdir())) == 1  # that of the engine that runs
        assert "the HTTP process was killed by signal 9" in (tmp_path / "log.txt").read_text()
    assert list(sockets.iterdir()) == []


def test_the_process_that_stays_is_small_and_has_loaded_nothing_large(tmp_path: Path) -> None:
    with open_tiny(tmp_path) as server:
        assert 0 < read_rss(server.pid) < MAX_PARENT_BYTES
        libraries = Path(f"/proc/{server.pid}/maps").read_text()
        assert re.findall(r"torch|uvloop|pydantic|tokenizers|zmq", libraries) == []
        child = find_http(server.pid)
        assert "uvloop" in Path(f"/proc/{child}/maps").read_text()  # else this would show nothing


def test_all_of_it_ends_with_the_process_that_stays(tmp_path: Path, sockets: Path) -> None:
    with open_tiny(tmp_path) as server:
        members = list_tree(server.pid)
        assert len(members) >= 3
        os.kill(server.pid, signal.SIGKILL)
        until(lambda: not any(read_rss(pid) for pid in members))
    assert list(sockets.iterdir()) == []


def test_a_config_that_is_wrong_ends_the_start_once(tmp_path: Path) -> None:
    config = write_tiny_config(tmp_path, 0)
    argv = [sys.executable, "-m", "llmplug", "serve", "--config", str(config)]
    argv += ["--set", "models.0.kernels.linear=[nowhere]"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 2
    assert done.stderr.count("llmplug: error:") == 1


def test_a_server_that_cannot_come_back_says_so_in_the_end(tmp_path: Path) -> None:
    """What was right at the start is wrong later: the last attempt's status is the status."""
    with open_tiny(tmp_path) as server:
        (tmp_path / "config.yaml").write_text("sever: {}")
        kill_http(server)
        until(lambda: server.status is not None)
        assert server.status == 2
    assert "did you mean 'server'?" in (tmp_path / "log.txt").read_text()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    return make_certificate(tmp_path_factory.mktemp("certificate"), "server")


def test_tls_is_spoken_by_the_next_process_too(
    certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    port = find_free_port()
    config = write_tiny_config(tmp_path, port)
    argv = [sys.executable, "-m", "llmplug", "serve", "--config", str(config)]
    for field, path in zip(("certificate", "private_key"), certificate, strict=True):
        argv += ["--set", f"server.tls.{field}={path}"]
    trusted = ssl.create_default_context(cafile=certificate[0])
    with (
        (tmp_path / "log.txt").open("wb") as log,
        subprocess.Popen(argv, stderr=log) as server,
        httpx.Client(
            base_url=f"https://127.0.0.1:{port}", verify=trusted, timeout=DEADLINE_S
        ) as http,
    ):
        try:
            until(lambda: server.poll() is not None or is_ready(http))
            victim = find_http(server.pid)
            assert victim is not None
            os.kill(victim, signal.SIGKILL)
            with httpx.Client(verify=trusted, timeout=DEADLINE_S) as other:
                assert other.get(f"https://127.0.0.1:{port}/live").status_code == 200
        finally:
            server.terminate()
        assert server.wait(DEADLINE_S) == 0
