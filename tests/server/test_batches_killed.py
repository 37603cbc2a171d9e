"""A server that is killed while it answers a batch: each line is answered once."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import openai
import pytest
from openai.types import Batch

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and locks")

DEADLINE_S = 60.0
ROOT = Path(__file__).parents[2]


@contextmanager
def serving(
    folder: Path, log: Path, how: signal.Signals = signal.SIGKILL
) -> Iterator[openai.OpenAI]:
    """A client of a server that gets a signal in the end."""
    with log.open("wb") as file:
        popen = subprocess.Popen(
            [sys.executable, "-m", "tests.server.batch_server", str(folder)], stderr=file, cwd=ROOT
        )
    try:
        wait_for(lambda: "listening on" in log.read_text() or popen.poll() is not None)
        match = re.search(r"listening on (http://\S+)", log.read_text())
        assert match, log.read_text()
        with openai.OpenAI(base_url=f"{match[1]}/v1", api_key="none", max_retries=0) as client:
            yield client
    finally:
        popen.send_signal(how)
        status = popen.wait(DEADLINE_S)
    assert status == (0 if how is signal.SIGTERM else -how), log.read_text()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def num_answered(batch: Batch) -> int:
    assert batch.request_counts is not None
    return batch.request_counts.completed + batch.request_counts.failed


def write_input(num_lines: int) -> bytes:
    """Lines that ask for their own number; every tenth is wrong."""
    return b"".join(
        json.dumps(
            {
                "custom_id": f"line-{i}",
                "method": "POST",
                "url": "/v1/completions",
                "body": {"model": "toy", "prompt": f"number {i}", "n": 0 if i % 10 == 9 else 1},
            }
        ).encode()
        + b"\n"
        for i in range(num_lines)
    )


@pytest.mark.parametrize(
    ("num_lines", "num_kills", "how"),
    [
        (300, 3, signal.SIGKILL),
        (200, 1, signal.SIGTERM),
        pytest.param(1000, 10, signal.SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_each_line_is_answered_once(
    tmp_path: Path, num_lines: int, num_kills: int, how: signal.Signals
) -> None:
    folder, log = tmp_path / "batches", tmp_path / "log"
    moments = sorted(random.sample(range(1, num_lines - 16), num_kills))
    with serving(folder, log, how) as client:
        file = client.files.create(file=("in.jsonl", write_input(num_lines)), purpose="batch")
        batch_id = client.batches.create(
            input_file_id=file.id, endpoint="/v1/completions", completion_window="24h"
        ).id
        wait_for(lambda: num_answered(client.batches.retrieve(batch_id)) >= moments[0])
    for moment in moments[1:]:
        with serving(folder, log, how) as client:
            wait_for(lambda m=moment: num_answered(client.batches.retrieve(batch_id)) >= m)  # type: ignore[misc]
    with serving(folder, log) as client:
        wait_for(lambda: client.batches.retrieve(batch_id).status == "completed")
        batch = client.batches.retrieve(batch_id)
        assert batch.request_counts is not None
        num_wrong = num_lines // 10
        assert batch.request_counts.to_dict() == {
            "total": num_lines,
            "completed": num_lines - num_wrong,
            "failed": num_wrong,
        }
        told: list[tuple[str, str]] = []
        for file_id in (batch.output_file_id, batch.error_file_id):
            assert file_id is not None
            for line in client.files.content(file_id).text.splitlines():
                answer = json.loads(line)
                body = answer["response"]["body"]
                said = body["choices"][0]["text"] if "choices" in body else body["error"]["param"]
                told.append((answer["custom_id"], said))
    wanted = [(f"line-{i}", "n" if i % 10 == 9 else f"number {i}") for i in range(num_lines)]
    assert sorted(told) == sorted(wanted)


def test_each_response_is_stored_once(tmp_path: Path) -> None:
    """A server may be killed after it has stored a response, and before it has kept the line."""
    folder, log = tmp_path / "batches", tmp_path / "log"
    num_lines = 300
    moments = sorted(random.sample(range(1, num_lines - 16), 5))
    body = {"model": "toy", "input": "Hi"}
    line = {"method": "POST", "url": "/v1/responses", "body": body}
    data = b"".join(
        json.dumps({"custom_id": f"line-{i}", **line}).encode() + b"\n" for i in range(num_lines)
    )
    with serving(folder, log) as client:
        file = client.files.create(file=("in.jsonl", data), purpose="batch")
        batch_id = client.batches.create(
            input_file_id=file.id, endpoint="/v1/responses", completion_window="24h"
        ).id
        wait_for(lambda: num_answered(client.batches.retrieve(batch_id)) >= moments[0])
    for moment in moments[1:]:
        with serving(folder, log) as client:
            wait_for(lambda m=moment: num_answered(client.batches.retrieve(batch_id)) >= m)  # type: ignore[misc]
    with serving(folder, log) as client:
        wait_for(lambda: client.batches.retrieve(batch_id).status == "completed")
        output_id = client.batches.retrieve(batch_id).output_file_id
        assert output_id is not None
        answers = [json.loads(each) for each in client.files.content(output_id).text.splitlines()]
    told = [each["response"]["body"]["id"] for each in answers]
    with closing(sqlite3.connect(folder / "responses.sqlite")) as db:
        stored = [each for (each,) in db.execute("SELECT id FROM entries")]
    assert sorted(told) == sorted(stored)
    assert len(told) == num_lines
