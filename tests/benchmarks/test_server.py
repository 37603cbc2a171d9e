"""Starting, watching and stopping a server, and a whole measurement, with a stand-in for one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.server import (
    ServerProcess,
    find_free_port,
    first_model,
    list_tree,
    read_rss,
    wait_ready,
)

STAND_IN = """
import http.server, json, sys, subprocess
child = subprocess.Popen([sys.executable, "-c", "ballast = bytearray(50 << 20); input()"],
                         stdin=subprocess.PIPE)

class Answer(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args): pass

    def do_GET(self):
        known = self.path == "/v1/models"
        body = json.dumps({"data": [{"id": "stand-in"}]} if known else {}).encode()
        self.send_response(200 if known else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        wanted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["max_tokens"]
        self.send_response(200)
        self.end_headers()
        for _ in range(wanted):
            self.wfile.write(b'data: {"choices": [{"text": "a"}]}\\n\\n')
        usage = {"choices": [], "usage": {"completion_tokens": wanted}}
        self.wfile.write(b"data: " + json.dumps(usage).encode() + b"\\n\\ndata: [DONE]\\n\\n")

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    path = tmp_path / "stand_in.py"
    path.write_text(STAND_IN)
    return path


def test_server_is_started_watched_and_stopped(stand_in: Path, tmp_path: Path) -> None:
    port = find_free_port()
    command = [sys.executable, str(stand_in), str(port)]
    with ServerProcess(command, f"http://127.0.0.1:{port}", tmp_path / "log", 30) as server:
        pids = list_tree(server._process.pid)
        assert first_model(server.url) == "stand-in"
        assert len(pids) == 2
        while server.peak_rss_bytes < 50 << 20:  # the child's ballast; the suite's limit ends it
            server._stopping.wait(0.01)
    assert 0 < server.ready_s < 30
    assert list_tree(pids[0]) == []


def test_server_that_dies_says_why(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such model')"]
    server = ServerProcess(command, "http://127.0.0.1:9", tmp_path / "log", 30)
    with pytest.raises(RuntimeError, match="no such model"), server:
        pass


def test_server_that_never_answers_is_given_up() -> None:
    with pytest.raises(TimeoutError, match="not ready"):
        wait_ready(f"http://127.0.0.1:{find_free_port()}", 0.2)


def test_whole_measurement_prints_rows(stand_in: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.serve", "--runs=2", "--requests=3"),
            *("--clients", "1", "2"),
            *("--command", f"{sys.executable} {stand_in} {{port}}"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    setup, *rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert setup["model"] == "stand-in"
    assert setup["probe"]["bandwidth_gb_s"] > 0
    assert setup["probe"]["gemm_gflop_s"] > 0
    assert {"cpu", "cores", "commit", "versions"} <= setup["machine"].keys()
    assert [row["clients"] for row in rows] == [1, 2]
    for row in rows:
        assert row["failures"] == {}
        assert row["output_tok_s"]["min"] > 0
        assert row["ttft_ms"]["p50"] > 0
        assert row["peak_rss_mib"] > 0


def test_measurement_that_is_stopped_stops_its_server(stand_in: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.serve", "--requests=1000000"]
    command += ["--command", f"{sys.executable} {stand_in} {{port}}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["kind"] == "setup"
        pids = list_tree(process.pid)
        process.terminate()
        assert process.wait(60) == 143
    assert len(pids) >= 3  # the harness, the server and the server's child
    # An orphan that has ended is a zombie until whoever adopted it looks: it holds no memory.
    deadline = time.monotonic() + 20
    while any(read_rss(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [pid for pid in pids if read_rss(pid)] == []
