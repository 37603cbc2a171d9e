"""Several models in one server, each an engine process of its own, as `llmplug serve` starts it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from safetensors.torch import load_file, save_file
from tiny import make_checkpoint
from tiny_encoders import make_encoder

from tests.served import DEADLINE_S, Process, serving

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc"),
]

CONFIG = """
server: {{port: 0, responses: {{path: memory}}}}
models:
- {{name: first, aliases: [org/first], source: {whole}, {settings}}}
- {{name: lazy, aliases: [org/lazy], source: {whole}, start: lazy, keep_alive_s: 0.5, {settings}}}
- {{name: broken, source: {broken}, {settings}}}
- {{name: reader, source: {reader}, start: lazy, keep_alive_s: 0.5, {settings}}}
- {{name: absent, aliases: [org/absent], source: {whole}/nowhere, {settings}}}
- {{name: broken-later, source: {broken}, start: lazy, {settings}}}
"""
SETTINGS = "device: cpu, cache: {memory: 4MiB}, threads: 1"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server of a good model and of one that lacks a tensor, each eager and lazy."""
    folder = tmp_path_factory.mktemp("several")
    whole = make_checkpoint("llama", folder / "whole")
    broken = make_checkpoint("llama", folder / "broken")
    reader = make_encoder("BertModel", {"pad_token_id": 0}, folder / "reader")
    tensors = load_file(broken / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    config = CONFIG.format(whole=whole, broken=broken, reader=reader, settings=SETTINGS)
    with serving(config, folder) as process:
        process.until(lambda: states(process)["broken"] == "failed")
        process.until(process.is_ready)
        yield process


def complete(server: Process, model: str) -> httpx.Response:
    body: dict[str, Any] = {"model": model, "prompt": "ab", "max_tokens": 5, "temperature": 0}
    return httpx.post(
        f"{server.url}/v1/completions", json={**body, "ignore_eos": True}, timeout=DEADLINE_S
    )


def say(server: Process, model: str) -> str:
    answer = complete(server, model)
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["text"]
    return text


def states(server: Process) -> dict[str, str]:
    cards = httpx.get(f"{server.url}/v1/models", timeout=DEADLINE_S).json()["data"]
    return {card["id"]: card["state"] for card in cards}


def test_an_engine_comes_with_a_request_and_goes_with_silence(server: Process) -> None:
    (first,) = server.engine_pids()
    for _ in range(2):
        assert states(server)["lazy"] == "asleep"
        assert say(server, "lazy") == say(server, "first")
        assert say(server, "org/lazy") == say(server, "org/first")
        server.until(lambda: server.engine_pids() == [first])
        assert server.is_ready()


def test_a_grammar_process_goes_with_its_engine(server: Process) -> None:
    def num_grammar_processes() -> int:
        return len(server.pids_of(b"grammars"))

    server.until(lambda: states(server)["lazy"] == "asleep" and num_grammar_processes() == 1)
    body = {"model": "lazy", "prompt": "ab", "max_tokens": 5, "structured_outputs": {"regex": "a"}}
    for _ in range(2):
        answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=DEADLINE_S)
        assert answer.json()["choices"][0]["text"] == "a"
        server.until(lambda: num_grammar_processes() == 1)


def test_a_model_that_cannot_start_leaves_the_others(server: Process) -> None:
    for name in ("broken", "broken-later", "absent"):
        answer = complete(server, name)
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "engine_unavailable"
        assert states(server)[name] == "failed"
    log = server.log.read_text()
    assert log.count("model.norm.weight") >= 2  # it says why
    assert "absent cannot be served: no such file or folder" in log
    assert server.is_ready()
    assert say(server, "first") == say(server, "lazy")


def test_a_model_for_something_else_is_beside_them(server: Process) -> None:
    body = {"model": "reader", "input": ["abc", "de"]}
    answer = httpx.post(f"{server.url}/v1/embeddings", json=body, timeout=DEADLINE_S).json()
    assert [len(each["embedding"]) for each in answer["data"]] == [48, 48]
    assert complete(server, "reader").json()["error"]["param"] == "model"
    assert "grammar process ended" not in server.log.read_text()  # it needs none


def test_a_model_that_dies_leaves_the_others(server: Process) -> None:
    text = say(server, "lazy")
    server.until(lambda: states(server)["lazy"] == "asleep")
    server.until(lambda: len(server.engine_pids()) == 1)
    (first,) = server.engine_pids()
    os.kill(first, signal.SIGKILL)
    server.until(lambda: states(server)["first"] != "ready")
    assert say(server, "lazy") == text
    server.until(lambda: states(server)["first"] == "ready")
    assert say(server, "first") == text


def test_cards_tell_what_is_known_before_an_engine_runs(server: Process) -> None:
    cards = httpx.get(f"{server.url}/v1/models", timeout=DEADLINE_S).json()["data"]
    described = {
        card["id"]: (card.get("aliases"), card.get("max_model_len"), card.get("task"))
        for card in cards
    }
    assert described == {
        "first": (["org/first"], 256, None),
        "lazy": (["org/lazy"], 256, None),
        "broken": (None, 256, None),
        "reader": (None, 90, "embed"),
        "broken-later": (None, 256, None),
        "absent": (["org/absent"], None, None),
    }
    for name in ("absent", "org/absent"):
        card = httpx.get(f"{server.url}/v1/models/{name}", timeout=DEADLINE_S).json()
        assert (card["id"], card["state"]) == ("absent", "failed")
