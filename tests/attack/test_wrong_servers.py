"""Servers that are wrong on purpose are seen to fail; one that refuses everything well is not."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llmplug.attack import crowds, doors, leftovers, media, uploads
from llmplug.attack.attacker import Attacker
from llmplug.attack.attacks import attack
from llmplug.attack.canary import Canary
from llmplug.attack.leftovers import ProcessMemory
from llmplug.attack.run import ATTACKS, Outcome, run_attack, run_attacks
from llmplug.cli import main
from llmplug.conformance.checks import CheckFailed
from llmplug.conformance.target import Target
from llmplug.errors import ConfigError

SONG = ("Once", " upon", " a", " time")
REFUSAL = {"error": {"message": "no", "type": "invalid_request_error", "param": "n", "code": None}}


class Behaviour:
    """How a server is wrong; as it stands, it is not."""

    status = 400
    refusal: Any = REFUSAL
    delay_s = 0.0
    metrics = "llmplug_running 0.0\n"
    ready = 200
    fetches = False
    num_songs = 0

    def sing(self) -> list[str]:
        """What the canary says the next time."""
        self.num_songs += 1
        return list(SONG)

    def reply(self, body: bytes) -> Any:
        """What is said to any other request."""
        return self.refusal


@contextmanager
def behaving(behaviour: Behaviour) -> Iterator[Attacker]:
    """A server that refuses all but the canary."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/metrics":
                return self.answer(200, behaviour.metrics.encode())
            return self.answer(behaviour.ready, b"{}")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if b"ignore_eos" in body:
                return self.sing()
            for url in re.findall(rb"http://127[^\\\"]*", body) if behaviour.fetches else ():
                with suppress(OSError):
                    urllib.request.urlopen(url.decode(), timeout=0.1)
            time.sleep(behaviour.delay_s)
            return self.answer(behaviour.status, json.dumps(behaviour.reply(body)).encode())

        def sing(self) -> None:
            events = [
                {"choices": [{"index": 0, "text": text, "finish_reason": None}]}
                for text in behaviour.sing()
            ]
            data = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
            self.answer(200, f"{data}data: [DONE]\n\n".encode())

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}"
        yield Attacker(target=Target(url=url, model="toy", timeout_s=20), within_s=5)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@attack("test")
def too_many_answers(attacker: Attacker) -> None:
    """It is refused."""
    attacker.expect_refused("/v1/completions", "n", n=0)


def try_one(attacker: Attacker) -> Outcome:
    return run_attack(too_many_answers, attacker, Canary(attacker.target, 5))


def test_a_server_that_refuses_well_withstands() -> None:
    with behaving(Behaviour()) as attacker:
        assert try_one(attacker).result == "withstood"


def test_attacks_have_names_of_their_own_and_say_what_must_come_of_them() -> None:
    assert len({each.name for each in ATTACKS}) == len(ATTACKS) > 40
    assert all(each.wants.endswith(".") for each in ATTACKS)


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        ({"status": 200}, "status 200"),
        ({"status": 500}, "status 500"),
        ({"refusal": {"error": "no"}}, "no error object"),
        ({"refusal": {"error": {**REFUSAL["error"], "param": "x"}}}, "error.param is 'x'"),
        (
            {"refusal": {"error": {**REFUSAL["error"], "message": "<Model at 0x7f00aa10>"}}},
            "it tells b'0x7f00aa'",
        ),
        (
            {"refusal": {"error": {**REFUSAL["error"], "message": "in /home/me/model"}}},
            "it tells b'/home/'",
        ),
        ({"ready": 503}, "not ready afterwards"),
        ({"metrics": 'llmplug_cache_pages_used{model="toy"} 3.0\n'}, "left behind"),
    ],
)
def test_a_wrong_server_fails(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], seen: str
) -> None:
    monkeypatch.setattr(leftovers, "SETTLE_S", 0.1)
    behaviour = Behaviour()
    for name, value in changes.items():
        setattr(behaviour, name, value)
    with behaving(behaviour) as attacker:
        outcome = try_one(attacker)
    assert outcome.result == "failed"
    assert seen in outcome.seen


def test_a_late_refusal_fails() -> None:
    behaviour = Behaviour()
    behaviour.delay_s = 0.2
    with behaving(behaviour) as attacker:
        hasty = Attacker(target=attacker.target, within_s=0.1)
        assert "the refusal took 0." in try_one(hasty).seen


class Distracted(Behaviour):
    """It sings another song from the third time on."""

    def sing(self) -> list[str]:
        songs = super().sing()
        return songs if self.num_songs < 3 else ["Twice", *songs[1:]]


class Hoarse(Behaviour):
    """It sings another song each time."""

    def sing(self) -> list[str]:
        return [*super().sing(), str(self.num_songs)]


def test_a_canary_that_changes_its_song_is_heard() -> None:
    with behaving(Distracted()) as attacker:
        outcome = try_one(attacker)
    assert outcome.result == "failed"
    assert "Twice" in outcome.seen


def test_nothing_is_tried_where_no_canary_sings() -> None:
    with behaving(Hoarse()) as attacker, pytest.raises(CheckFailed, match="two answers"):
        next(run_attacks(attacker))


def test_a_server_that_calls_addresses_is_heard() -> None:
    behaviour = Behaviour()
    for fetches, result in ((False, "withstood"), (True, "failed")):
        behaviour.fetches = fetches
        with behaving(behaviour) as attacker:
            canary = Canary(attacker.target, 5)
            outcome = run_attack(doors.addresses_in_requests, attacker, canary)
        assert outcome.result == result, outcome.seen


class Literal(Behaviour):
    """It says something else to whatever is written down otherwise."""

    status = 200

    def reply(self, body: bytes) -> Any:
        """Another word for each body."""
        message = {"content": hashlib.sha256(body).hexdigest()}
        return {"choices": [{"message": message, "text": "the same"}]}


def test_a_server_that_sees_what_nobody_sees_is_seen() -> None:
    with behaving(Literal()) as attacker, pytest.raises(CheckFailed, match="of its twin"):
        media.pictures_that_look_otherwise.run(attacker)


def test_a_server_that_knows_every_adapter_is_seen() -> None:
    with behaving(Literal()) as attacker, pytest.raises(CheckFailed, match="status 200"):
        crowds.adapters_and_the_base_in_one_round.run(attacker)


def test_a_server_that_calls_a_file_as_its_client_does_is_seen() -> None:
    behaviour = Behaviour()
    behaviour.status, behaviour.refusal = 200, {"id": "../../plain.jsonl"}
    with behaving(behaviour) as attacker, pytest.raises(CheckFailed, match="the file's id is"):
        uploads.names_that_lead_elsewhere.run(attacker)


class Obedient(Behaviour):
    """It puts a file where its name says."""

    status = 200

    def reply(self, body: bytes) -> Any:
        """Another file."""
        name = re.search(rb'filename="([^"\r\n\0]*)', body)
        if name is not None and name[1].startswith(uploads.TEMPORARY.encode()):
            Path(os.fsdecode(name[1])).write_bytes(body)
        return {"id": "file-abcdefgh"}


def test_a_file_that_is_put_where_its_name_says_is_seen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(uploads, "TEMPORARY", str(tmp_path))
    monkeypatch.setattr(uploads, "NAMES", (os.fsencode(tmp_path) + b"/%b",))
    monkeypatch.setattr(uploads, "_expect_kept", lambda *_: None)
    with behaving(Obedient()) as attacker, pytest.raises(CheckFailed, match="a file is in"):
        uploads.names_that_lead_elsewhere.run(attacker)


def test_memory_that_grows_is_seen() -> None:
    memory = ProcessMemory(os.getpid())
    before = memory.read()
    assert before > 2**20
    hoard = bytearray(64 * 2**20)
    with pytest.raises(CheckFailed, match="more memory"):
        memory.expect_small(before)
    del hoard
    with pytest.raises(ConfigError, match="knows no process"):
        ProcessMemory(2**22 + 1)


def test_other_machines_are_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["attack", "http://192.0.2.1:8000", "--model", "toy"]) == 2
    assert "--force" in capsys.readouterr().err


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    behaviour = Behaviour()
    behaviour.refusal = {"error": {**REFUSAL["error"], "param": "best_of"}}
    with behaving(behaviour) as attacker:
        url = attacker.target.url
        arguments = ["attack", url, "--model", "toy", "--within", "5", "--only", "numbers: beams"]
        assert main(arguments) == 1
        assert capsys.readouterr().out.endswith("0 withstood, 1 failed, 0 not offered\n")
        behaviour.refusal = REFUSAL
        assert main([*arguments, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["attack"], found["result"]) == ("numbers: beams", "withstood")
