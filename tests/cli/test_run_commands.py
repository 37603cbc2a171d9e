"""`generate`, `pull` and the refusals of `serve`: answers on stdout, mistakes in one line.

All run in this process: an exception that is not ours would fail the test.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from plugins.gguf_files import write_gguf

from llmplug import LLM, SamplingParams
from llmplug.cli import main
from llmplug.config import parse
from tests.cli.commands import Capture, write_config


# --- mistakes -----------------------------------------------------------------------------------
def one_line(capsys: Capture) -> str:
    """Return the message, which must be all that was written."""
    out, err = capsys.readouterr()
    assert out == ""
    match = re.fullmatch(r"llmplug: error: (.+)\n", err)
    assert match, err
    return match[1]


def make_broken(kind: str, good: Path, tmp_path: Path) -> str:
    """Make a source with something wrong with it."""
    path = tmp_path / kind
    if kind == "truncated.gguf":
        write_gguf(path)
        path.write_bytes(path.read_bytes()[:-40])
    elif kind == "pickled":
        path.mkdir()
        (path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
        (path / "pytorch_model.bin").touch()
    elif kind == "empty":
        path.mkdir()
    elif kind == "unknown-architecture":
        shutil.copytree(good, path)
        config = json.loads((path / "config.json").read_text())
        config["architectures"] = ["LlamaForCausalLn"]
        (path / "config.json").write_text(json.dumps(config))
    elif kind == "half-a-file":
        shutil.copytree(good, path)
        weights = path / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
    elif kind == "text.gguf":
        path.write_text("this is no model")
    return str(path)


SOURCES = {
    "missing.gguf": "no such file or folder",
    "truncated.gguf": "truncated",
    "text.gguf": "text.gguf",
    "pickled": "pytorch_model.bin",
    "empty": "no known checkpoint format",
    "unknown-architecture": "did you mean 'LlamaForCausalLM'?",
    "half-a-file": "model.safetensors",
}


@pytest.mark.parametrize("command", ["check", "serve", "generate"])
@pytest.mark.parametrize("kind", SOURCES)
def test_a_broken_source_is_one_line(
    kind: str, command: str, folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    config = write_config(tmp_path / "x.yaml", make_broken(kind, folder, tmp_path))
    more = ["-p", "Hi"] if command == "generate" else []
    assert main([command, "--config", config, *more]) == 2
    assert SOURCES[kind] in one_line(capsys)


@pytest.mark.parametrize("command", ["check", "serve", "generate", "pull"])
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere:some/model", "no installed plugin offers the source 'nowhere'"),
        ("pypy:some==1/x.gguf", "did you mean 'pypi'?"),
        ("pypi:some/x.gguf", "write pypi:dist==version/file"),
        ("'hf:'", "write hf:org/name"),
    ],
)
def test_a_source_that_nobody_fetches_is_one_line(
    command: str, source: str, message: str, tmp_path: Path, capsys: Capture
) -> None:
    config = write_config(tmp_path / "x.yaml", source)
    assert main([command, "--config", config, *(["-p", "Hi"] * (command == "generate"))]) == 2
    assert message in one_line(capsys)


SETTING_MISTAKES = [
    ("context_length: 257", "context_length: 257 is more than the 256 positions"),
    ("cache: {memory: 1KiB}", "'1KiB' is less than 1MiB"),
    ("kernels: {block: [onednnn]}", "did you mean 'onednn'?"),
    ("weights: {format: int4}", "int4"),
    ("generation_config: /no/such.json", "generation_config: /no/such.json"),
    ("chat_template: /no/such.jinja", "chat_template: /no/such.jinja"),
    ("chat_template: chatmll", "did you mean 'chatml'?"),
    ("conext_length: 5", "did you mean 'context_length'?"),
]


@pytest.mark.parametrize(("setting", "message"), SETTING_MISTAKES)
def test_a_setting_that_cannot_be_is_one_line(
    setting: str, message: str, folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    config = write_config(tmp_path / "x.yaml", folder, "device: cpu\n  " + setting)
    assert main(["check", "--config", config]) == 2
    assert message in one_line(capsys)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_one_line(
    folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    config = write_config(tmp_path / "x.yaml", folder, "device: cuda")
    assert main(["check", "--config", config]) == 2
    assert "torch finds no GPU" in one_line(capsys)


@pytest.mark.parametrize("command", ["check", "serve", "generate", "pull"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        ("", "missing key 'models'"),
        ("models: []", "expected at least one model"),
        ("models: [{source: a}]\nsever: {}", "unknown key 'sever'; did you mean 'server'?"),
        ("models: [{source: a}]\nplugins: {require: [gguff]}", "did you mean 'gguf'?"),
    ],
)
def test_a_config_that_cannot_be_is_one_line(
    command: str, text: str | None, message: str, tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "x.yaml"
    if text is not None:
        path.write_text(text)
    assert main([command, "--config", str(path), *(["-p", "Hi"] * (command == "generate"))]) == 2
    assert message in one_line(capsys)


@pytest.mark.parametrize("command", ["serve", "generate", "pull"])
def test_a_source_or_a_config_not_both_and_not_neither(command: str, capsys: Capture) -> None:
    assert main([command]) == 2
    assert one_line(capsys) == "give either a SOURCE or --config FILE"
    assert main([command, "some.gguf", "--config", "x.yaml"]) == 2
    assert one_line(capsys) == "give either a SOURCE or --config FILE"


@pytest.mark.parametrize("option", ["--host", "--port", "--api-key"])
def test_what_goes_with_a_source_is_not_ignored(
    option: str, folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    config = write_config(tmp_path / "x.yaml", folder)
    assert main(["serve", "--config", config, option, "1"]) == 2
    message = one_line(capsys)
    assert message.startswith(f"{option} goes with SOURCE")
    assert f"server.{option[2:].replace('api-key', 'api_keys')}=" in message


def test_exit_status_of_the_process(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llmplug", "serve", "--config", str(tmp_path / "no.yaml")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"llmplug: error: .+\n", done.stderr)


# --- serve --------------------------------------------------------------------------------------
@pytest.fixture
def taken_port() -> Any:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_port_in_use_is_one_line(
    folder: Path, tmp_path: Path, taken_port: int, capsys: Capture
) -> None:
    config = write_config(tmp_path / "x.yaml", folder)
    assert main(["serve", "--config", config, "--set", f"server.port={taken_port}"]) == 2
    message = one_line(capsys)
    assert message.startswith(f"cannot listen on 127.0.0.1, port {taken_port}: ")
    assert os.strerror(98) in message or "in use" in message


def test_serve_prints_the_config_that_a_source_stands_for(
    folder: Path, taken_port: int, capsys: Capture
) -> None:
    port = ["--port", str(taken_port), "--api-key", "hush"]
    more = ["--set", "models.0.cache.memory=4MiB", "--set", "log.level=error"]
    assert main(["serve", str(folder), *port, *more]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "hush" not in err
    text, _, message = err.rpartition("llmplug: error: ")
    assert "in use" in message
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("API_KEYS_0_KEY", "hush")
        config = parse(text)
    assert config.server.port == taken_port
    assert [each.key for each in config.server.api_keys] == ["hush"]
    (model,) = config.models
    assert (model.name, model.source) == ("tiny-one", str(folder))
    assert model.cache.memory == 4 * 2**20


# --- generate -----------------------------------------------------------------------------------
def test_generate_prints_the_answer(
    folder: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_config(tmp_path / "x.yaml", folder)
    params = SamplingParams(temperature=0.0, max_tokens=12)
    with LLM(path, progress=lambda stage, done, total: None) as llm:
        (chat,) = llm.chat([{"role": "user", "content": "Hi"}], params)
        (raw,) = llm.generate("Hi", params)
    common = ["generate", "--config", path, "--temperature", "0", "--max-tokens", "12"]
    capsys.readouterr()
    assert main([*common, "-p", "Hi"]) == 0
    assert capsys.readouterr().out == chat.text + "\n"
    assert main([*common, "--raw", "--prompt", "Hi"]) == 0
    assert capsys.readouterr().out == raw.text + "\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hi"))
    assert main([*common, "--raw"]) == 0
    assert capsys.readouterr().out == raw.text + "\n"
    stop = next(c for c in raw.text[3:] if c != "\ufffd")
    assert main([*common, "--raw", "-p", "Hi", "--stop", stop]) == 0
    assert capsys.readouterr().out == raw.text[: raw.text.index(stop)] + "\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "Hi", "--temperature", "nan"], "temperature must be a finite number"),
        (["-p", "Hi", "--max-tokens", "0"], "max_tokens is 0"),
        (["-p", "x" * 300, "--raw"], "maximum context length is 256"),
        (["-p", "", "--raw"], "The prompt is empty"),
        (["-p", "Hi", "--model", "other"], "name one of the config's models: tiny-one"),
    ],
    ids=["temperature", "max-tokens", "too-long", "empty", "model"],
)
def test_generate_refuses_in_one_line(
    arguments: list[str], message: str, folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    path = write_config(tmp_path / "x.yaml", folder)
    status = main(["generate", "--config", path, *arguments])
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert re.search(rf"(?m)^llmplug: error: .*{re.escape(message)}.*\n\Z", err)


# --- pull ---------------------------------------------------------------------------------------
def test_pull_says_where_each_model_lies(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    config = write_config(tmp_path / "x.yaml", folder)
    assert main(["pull", "--config", config]) == 0
    assert capsys.readouterr().out == f"tiny-one: {folder} (a local path)\n"
    assert main(["pull", str(tmp_path / "nothing")]) == 2
    assert one_line(capsys) == f"no such file or folder: {tmp_path / 'nothing'}"


@pytest.mark.parametrize("is_here", [False, True])
def test_pull_fetches_what_is_not_here(
    site: Any, is_here: bool, tmp_path: Path, capsys: Capture
) -> None:
    here = tmp_path / "model.gguf"
    site.install(
        "shop",
        f"""
        from pathlib import Path
        def find(rest, cache): return Path({str(here)!r}) if {is_here} else None
        def fetch(rest, cache, progress):
            assert rest == "a/model.gguf"
            progress("fetching", 1, 1)
            return Path({str(here)!r})
        @hookimpl
        def llmplug_sources():
            return [SourceSpec(scheme="shop", syntax="shop:...", find=find, fetch=fetch)]
        """,
    )
    assert main(["pull", "shop:a/model.gguf"]) == 0
    out, err = capsys.readouterr()
    how = "already here" if is_here else "fetched now"
    assert out == f"model: {here} (plugin dist-shop:shop; {how})\n"
    assert ("fetching" in err) is not is_here
