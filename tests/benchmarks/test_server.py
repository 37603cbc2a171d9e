"""Starting, watching and stopping a server, with a stand-in for one."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.processes import list_tree
from benchmarks.server import (
    ServerProcess,
    find_free_port,
    first_model,
    read_engine_s,
    read_version,
    wait_ready,
)

STAND_IN = Path(__file__).with_name("stand_in.py")
METRICS = """
# TYPE llmplug_engine_seconds counter
llmplug_engine_seconds_total{model="a",phase="run"} 2.5
llmplug_engine_seconds_total{model="b",phase="run"} 0.5
llmplug_engine_seconds_total{model="a",phase="schedule"} 0.25
llmplug_engine_seconds_created{model="a",phase="run"} 17e8
# TYPE llmplug_engine_steps counter
llmplug_engine_steps_total{model="a"} 12
"""


@contextmanager
def running(tmp_path: Path, **options: Any) -> Iterator[ServerProcess]:
    port = find_free_port()
    command = [sys.executable, str(STAND_IN), str(port), json.dumps(options)]
    with ServerProcess(command, f"http://127.0.0.1:{port}", tmp_path / "log", 30) as server:
        yield server


def test_server_is_started_watched_and_stopped(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        pids = list_tree(server._process.pid)
        assert first_model(server.url) == "stand-in"
        assert len(pids) == 3
        while server.peak_rss_bytes < 50 << 20:  # the child's ballast; the suite's limit ends it
            server._stopping.wait(0.01)
        assert set(server.cpu_s) == {"server", "engine"}
    assert 0 < server.ready_s < 30
    assert list_tree(pids[0]) == []


@pytest.mark.parametrize("path", ["/ready", "/health", "/v1/models"])
def test_whichever_path_there_is_says_that_it_is_ready(tmp_path: Path, path: str) -> None:
    with running(tmp_path, ready=path) as server:
        assert server.ready_s > 0


def test_server_says_what_it_is_and_where_its_time_went(tmp_path: Path) -> None:
    with running(tmp_path, version="1.2.3", metrics=METRICS) as server:
        assert read_version(server.url) == "1.2.3"
        assert read_engine_s(server.url) == {"run": 3.0, "schedule": 0.25}
    with running(tmp_path, metrics="# TYPE other counter\nother_total 1\n") as server:
        assert read_version(server.url) is None
        assert read_engine_s(server.url) == {}
    with running(tmp_path) as server:
        assert read_engine_s(server.url) == {}


def test_server_that_dies_says_why(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such model')"]
    server = ServerProcess(command, "http://127.0.0.1:9", tmp_path / "log", 30)
    with pytest.raises(RuntimeError, match="no such model"), server:
        pass


def test_server_that_never_answers_is_given_up() -> None:
    with pytest.raises(TimeoutError, match="not ready"):
        wait_ready(f"http://127.0.0.1:{find_free_port()}", 0.2)
