"""Every line is what its format says, whoever logs it and whatever the message holds."""

from __future__ import annotations

import gc
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime

import pytest

from llmplug import processes
from llmplug.config import from_source
from llmplug.engine.stage_clock import StageClock
from llmplug.errors import PluginError
from llmplug.logs import JsonLines, LineLog, TextLines, log_fields

PROGRAM = """
import logging, threading, warnings
from llmplug import logs
logs.set_up("info", "json", model="org/small")
logs.set_up("info", "json", model="org/small")
logging.getLogger("sanic.error").error("two\\nlines")
logging.getLogger("asyncio").warning("never awaited %s", {"a": 1})
logging.getLogger("llmplug.engine").debug("not written")
try:
    raise ValueError("broken\\n\\tand odd: \\ud800 \\u2028")
except ValueError:
    logging.getLogger("llmplug.engine").exception("a step failed")
logs.log_fields(logging.getLogger("llmplug.access"), {"status": 200, "error": None, "ms": 1.25})
thread = threading.Thread(target=lambda: 1 / 0, name="worker")
thread.start()
thread.join()
{}["missing"]
"""


def make_record(message: str, *args: object, error: Exception | None = None) -> logging.LogRecord:
    info = None if error is None else (type(error), error, error.__traceback__)
    return logging.LogRecord("llmplug.x", logging.WARNING, __file__, 1, message, args, info)


def test_a_process_writes_nothing_but_json() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["logger"] for line in lines] == [
        "sanic.error", "asyncio", "llmplug.engine", "llmplug.access", "llmplug", "llmplug",
    ]  # fmt: skip
    assert {line["model"] for line in lines} == {"org/small"}
    assert lines[0]["message"] == "two\nlines"
    assert lines[1]["message"] == "never awaited {'a': 1}"
    assert lines[2]["exception"].splitlines()[-1].startswith("\tand odd")
    assert {"status": 200, "error": None, "ms": 1.25}.items() <= lines[3].items()
    assert "ZeroDivisionError" in lines[4]["exception"]
    assert lines[4]["message"] == "the thread worker died"
    assert "KeyError: 'missing'" in lines[5]["exception"]
    assert done.returncode == 1


@pytest.mark.parametrize("message", ["plain", "a\r\nb", "\u2028\u2029\x85\x00", "\ud83d", '"}\n{"'])
def test_one_line_for_any_message(message: str) -> None:
    text = JsonLines().format(make_record("%s", message, error=ValueError(message)))
    assert len(text.splitlines()) == 1
    line = json.loads(text)
    assert line["message"] == message
    assert (line["level"], line["logger"]) == ("warning", "llmplug.x")
    assert datetime.fromisoformat(line["time"]).utcoffset() is not None


def test_text_says_whose_process_it_is() -> None:
    assert " WARNING llmplug.x [50%s] hello you" in TextLines("50%s").format(
        make_record("hello %s", "you")
    )
    assert " WARNING llmplug.x hello" in TextLines().format(make_record("hello"))


def test_fields_as_text(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log_fields(logging.getLogger("x"), {"id": "100%", "n": 3, "ms": 2.04, "key": None, "e": ""})
    assert caplog.messages == ["id=100% n=3 ms=2.0 key=- e=-"]


def test_what_is_written_for_people_becomes_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    stream = LineLog()
    assert stream.write("weights: 25 %\nweights: 50 %\n") == 28
    stream.flush()
    assert not stream.isatty()
    assert caplog.messages == ["weights: 25 %", "weights: 50 %"]


def open_grammars(payload: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(config: object) -> None:
        raise PluginError("far enough")

    monkeypatch.setattr(processes, "load_registry", stop)
    with pytest.raises(PluginError, match="far enough"):
        processes.open_grammar_backend(payload)


def run_engine(payload: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_import_engine", lambda: None)
    monkeypatch.setattr("llmplug.engine.worker.read_payload", lambda path: payload)
    monkeypatch.setattr("llmplug.engine.worker.run_worker", lambda path, build, others: 0)
    try:
        assert processes.run_engine_process("", StageClock("imports")) == 0
    finally:
        gc.unfreeze()


@pytest.mark.parametrize("run", [open_grammars, run_engine])
def test_processes_of_a_model_write_as_the_config_says_and_name_it(
    run: Callable[[bytes, pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = from_source("x/small", sets=["log.format=json", "log.level=warning"])
    for name in ("sys.excepthook", "threading.excepthook"):
        monkeypatch.setattr(name, print)  # to be put back
    rules = {"context_length": 1, "end_ids": [], "sampling_defaults": {}}
    payload = {"config": config.model_dump(mode="json"), "model": "small", "path": "x",
               "rules": rules, "place": {}, "plugins": []}  # fmt: skip
    run(json.dumps(payload).encode(), monkeypatch)
    logging.getLogger("llmplug.engine").error("it failed")
    logging.getLogger("llmplug.engine").info("not serious")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["model"] == "small"
