"""With `log.format: json` whatever a server writes is JSON, from its start to its end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from tiny import make_checkpoint

DEADLINE_S = 120.0


def write_config(path: Path, source: Path) -> str:
    model = {"source": str(source), "name": "tiny", "device": "cpu", "threads": 1}
    config = {
        "server": {"port": 0},
        "log": {"format": "json"},
        "models": [{**model, "cache": {"memory": "4MiB"}}],
    }
    path.write_text(json.dumps(config))
    return str(path)


def read_lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines() if line]


def test_a_start_that_fails(tmp_path: Path) -> None:
    config = write_config(tmp_path / "config.yaml", tmp_path / "missing")
    argv = [sys.executable, "-m", "llmplug", "serve", "--config", config]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    assert done.returncode == 2
    last = [json.loads(line) for line in done.stderr.splitlines()][-1]
    assert (last["level"], last["logger"]) == ("critical", "llmplug")
    assert "no such file or folder" in last["message"]


@pytest.mark.slow
def test_a_server_that_answers(tmp_path: Path) -> None:
    config = write_config(tmp_path / "config.yaml", make_checkpoint("llama", tmp_path / "tiny"))
    log = tmp_path / "log.txt"
    with log.open("wb") as file:
        argv = [sys.executable, "-m", "llmplug", "serve", "--config", config]
        process = subprocess.Popen(argv, stderr=file)
    try:
        deadline = time.monotonic() + DEADLINE_S
        while '"tiny is ready' not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        (told,) = [each for each in read_lines(log) if "listening on" in each["message"]]
        url = told["message"].removeprefix("listening on ")
        body = {"model": "tiny", "prompt": "a", "max_tokens": 3}
        answer = httpx.post(f"{url}/v1/completions", json=body, timeout=DEADLINE_S)
        assert answer.status_code == 200
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE_S)
    (line,) = [each for each in read_lines(log) if each["logger"] == "llmplug.access"]
    assert line["id"] == answer.headers["X-Request-Id"]
    assert (line["status"], line["model"], line["prompt"]) == (200, "tiny", 1)
    assert process.returncode == 0
