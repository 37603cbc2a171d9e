"""What the recorder knows of requests, what it keeps to itself, and what it leaves on disk."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest

from llmplug.config import FlightRecorderConfig
from llmplug.errors import EngineUnavailable
from llmplug.server.flight_recorder import FlightRecorder, describe_trail
from llmplug.server.receipt import Receipt
from llmplug.server.trail import Trail
from llmplug.types import BeamParams, SamplingParams

from .admin_calls import ask_beside
from .conftest import StartServer, until
from .fake_engine import endless, fail_after, speak

SECRET = "zebra"


def make_recorder(folder: Path | None, **changes: Any) -> FlightRecorder:
    return FlightRecorder(**{"num_requests": 3, "folder": folder, "num_files": 2, **changes})


async def test_the_last_requests_can_be_asked_for(start: StartServer) -> None:
    keys = ({"name": "alice", "key": "secret"}, {"key": "root", "scopes": ("admin",)})
    server = await start(speak("abc", cached=1), api_keys=keys)
    body = {"model": "toy", "prompt": f"{SECRET}", "temperature": 0.5, "stop": [SECRET], "n": 2}
    headers = {"x-api-key": "secret", "X-Request-Id": "the-id"}
    await server.http.post("/v1/completions", json=body, headers=headers)
    denied, answer = (
        await ask_beside(server, ("GET", "/flight")),
        await ask_beside(server, ("GET", "/flight"), key="root"),
    )
    assert denied[0].status_code == 401
    report = answer[0].json()
    (request,) = report["ended"]
    assert report["running"] == []
    assert {
        "id": "the-id",
        "route": "/v1/completions",
        "model": "toy",
        "key": "alice",
        "prompt_lengths": [5],
        "num_sequences": 2,
        "cached_tokens": 1,
        "completion_tokens": 8,
        "outcome": "done",
        "finish_reasons": ["stop", "stop"],
        "has_grammar": False,
    }.items() <= request.items()
    assert request["sampling"].items() >= {"temperature": 0.5, "num_stop": 1}.items()
    assert 0 <= request["queue_s"] <= request["seconds"]
    assert SECRET not in answer[0].text
    assert "secret" not in answer[0].text


def test_no_text_of_a_request_is_kept() -> None:
    """Every field that can hold text does, and none of it comes out."""
    texts: dict[str, Any] = {
        "stop": (SECRET, SECRET),
        "extra": {"strength": 2.0, "words": SECRET, "list": [SECRET]},
        "samplers": (SECRET, {"name": SECRET}),
        "bad_words": (SECRET,),
        "logit_bias": {7: 1.0},
        "stop_token_ids": (7,),
        "beams": BeamParams(width=2, early_stopping="never"),
    }
    kinds = msgspec.structs.fields(SamplingParams)
    assert {each.name for each in kinds if "str" in str(each.type)} <= set(texts)
    told = describe_trail(Trail(sampling=SamplingParams(**texts, temperature=0.25)))
    assert SECRET not in json.dumps(told)
    assert told["sampling"]["num_stop"] == 2
    assert told["sampling"]["strength"] == 2.0
    assert told["sampling"]["temperature"] == 0.25
    assert told["sampling"]["beams"] is True


async def test_a_death_leaves_a_file_with_those_that_ran(
    start: StartServer, tmp_path: Path
) -> None:
    folder = tmp_path / "state" / "flight"
    settings = FlightRecorderConfig(path=str(folder), files=2)
    server = await start(endless(), flight_recorder=settings)
    running = asyncio.create_task(server.complete(prompt=SECRET, seed=7, max_tokens=99))
    await until(lambda: server.engine.num_open == 1)
    server.engine.on_event("death", "it was killed by signal 9")
    await until(lambda: len(list(folder.glob("*.json"))) == 1)
    (file,) = folder.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    await until(lambda: file.stat().st_size > 0)
    report = json.loads(file.read_bytes())
    assert report["why"] == "the engine of toy: death: it was killed by signal 9"
    (request,) = report["running"]
    assert request["sampling"]["seed"] == 7
    assert request["prompt_lengths"] == [5]
    assert SECRET not in file.read_text()
    assert [event["event"] for event in report["engines"]] == ["death"]
    running.cancel()
    first = file.name
    for _ in range(3):
        names = {each.name for each in folder.iterdir()}
        server.engine.on_event("gone", "again")
        await until(lambda names=names: {each.name for each in folder.iterdir()} != names)
    await until(lambda: len(list(folder.iterdir())) == 2)
    assert first not in {each.name for each in folder.iterdir()}
    counted = 'llmplug_engine_events_total{event="gone",model="toy"}'
    assert await server.metric(counted) == f"{counted} 3.0"


async def test_errors_and_requests_that_were_given_up(start: StartServer) -> None:
    server = await start(fail_after(EngineUnavailable("it died"), "a"))
    await server.complete()
    server.engine.script = endless()
    gone = asyncio.create_task(server.complete())
    await until(lambda: server.engine.num_open == 1)
    gone.cancel()
    await until(lambda: server.num_in_flight == 0)
    failed, given_up = server.app.ctx.recorder.report("")["ended"]
    assert (failed["outcome"], failed["error"]) == ("error", "engine_unavailable")
    assert (given_up["outcome"], given_up["abort_reason"]) == ("abort", "client")


async def test_what_is_kept_has_a_bound(tmp_path: Path) -> None:
    recorder = make_recorder(None)
    for number in range(10):
        trail = Trail(request_id=str(number), receipt=Receipt())
        recorder.begin(trail)
        recorder.end(trail)
    report = recorder.report("")
    assert [request["id"] for request in report["ended"]] == ["7", "8", "9"]
    for _ in range(1000):
        recorder.note_engine("m", "ready", "x" * 5000)
    assert len(msgspec.json.encode(recorder.report(""))) < 300_000
    off = make_recorder(tmp_path / "none", num_requests=0)
    off.begin(Trail())
    off.note_engine("m", "death", "")
    assert off.report("")["running"] == []
    assert not (tmp_path / "none").exists()


def test_a_start_that_fails_leaves_no_file(tmp_path: Path) -> None:
    recorder = make_recorder(tmp_path)
    recorder.note_engine("m", "gone", "the config is wrong")
    assert list(tmp_path.iterdir()) == []
    assert recorder.report("")["engines"][0]["why"] == "the config is wrong"


async def test_a_folder_that_cannot_be_written_is_told_and_does_no_harm(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    recorder = make_recorder(tmp_path / "file" / "flight")
    recorder.begin(Trail())
    recorder.note_engine("m", "death", "")
    await until(lambda: "cannot be written" in caplog.text)
