"""The conformance suite: our server passes it, and wrong servers are seen to fail."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from llmplug.cli import main
from llmplug.conformance.run import CHECKS, Outcome, run_checks
from llmplug.conformance.target import Target


@contextmanager
def answering(status: int, body: bytes, content_type: str = "application/json") -> Iterator[str]:
    """A server that answers everything with the same words."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def try_all(url: str, only: str = "") -> dict[str, Outcome]:
    target = Target(url=url, model="toy", api_key="key", timeout_s=20)
    return {outcome.check.name: outcome for outcome in run_checks(target, only)}


def test_checks_have_names_of_their_own_and_say_what_they_want() -> None:
    assert len({each.name for each in CHECKS}) == len(CHECKS) > 30
    assert all(each.wants.endswith(".") for each in CHECKS)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"{}"),
        (200, b"[]"),
        (200, b"no json"),
        (200, b'{"choices": [], "usage": {}, "data": [], "output": []}'),
        (200, b'{"choices": [{"message": {}, "delta": {}, "text": 1}], "data": [{}]}'),
        (500, b'{"error": {"message": "no", "type": "server_error", "param": null, "code": null}}'),
        (404, b"<html>not found</html>"),
        (400, b'{"error": "no"}'),
        (400, b'{"error": {"message": "no", "type": "x", "param": null, "code": 400}}'),
    ],
)
def test_wrong_servers_fail(status: int, body: bytes) -> None:
    with answering(status, body) as url:
        outcomes = try_all(url)
    passed = {name for name, outcome in outcomes.items() if outcome.result == "pass"}
    assert passed == set()
    failed = [outcome for outcome in outcomes.values() if outcome.result == "fail"]
    assert len(failed) > 20
    assert all(outcome.seen for outcome in failed)


def test_wrong_streams_fail() -> None:
    chunk = {
        "object": "chat.completion.chunk",
        "id": "a",
        "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}],
    }
    data = f"data: {json.dumps(chunk)}\n\n"
    for events in ("", data, f"{data}data: [DONE]\n\n", f"data: [DONE]\n\n{data}data: [DONE]\n\n"):
        with answering(200, events.encode(), "text/event-stream") as url:
            outcomes = try_all(url, "stream: ")
        assert {outcome.result for outcome in outcomes.values()} == {"fail"}


def test_a_server_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with answering(200, b"{}") as url:
        pass
    assert main(["conformance", url, "--model", "toy", "--only", "models", "--json"]) == 1
    outcomes = json.loads(capsys.readouterr().out)
    assert len(outcomes) == 3
    assert all(each["result"] == "fail" and "no answer" in each["seen"] for each in outcomes)


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    with answering(404, b"no") as url:
        assert main(["conformance", url, "--model", "toy", "--only", "embeddings"]) == 0
    out = capsys.readouterr().out
    assert "embeddings: vectors" in out
    assert out.endswith("0 passed, 0 failed, 1 not offered\n")


def test_an_address_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conformance", "localhost:8000", "--model", "toy"]) == 2
    assert "no http or https address" in capsys.readouterr().err
