"""`check`, `generate`, `pull` and the refusals of `serve`: answers on stdout, mistakes in one line.

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
from tiny import make_checkpoint

from llmplug import LLM, SamplingParams
from llmplug.cli import main
from llmplug.config import parse

Capture = pytest.CaptureFixture[str]
SETTINGS = "device: cpu\n  cache: {memory: 4MiB}\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("llama", tmp_path_factory.mktemp("made") / "tiny-one")


def write_config(path: Path, source: object, more: str = SETTINGS) -> str:
    path.write_text(f"log: {{level: error}}\nmodels:\n- source: {source}\n  {more}")
    return str(path)


def read_table(text: str) -> dict[str, tuple[str, str]]:
    """Read what `check` prints first: topic -> (choice, reason)."""
    name, heading, *lines = text.partition("\n\n")[0].splitlines()
    starts = [heading.index(word) for word in ("choice", "is", "because")]
    cells = [
        (line[: starts[1]].strip(), line[starts[1] : starts[2]].strip(), line[starts[2] :].strip())
        for line in lines
    ]
    return {"name": (name, ""), **{topic: (chosen, why) for topic, chosen, why in cells}}


# --- check --------------------------------------------------------------------------------------
def test_check_prints_every_choice(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    config = write_config(tmp_path / "x.yaml", folder)
    assert main(["check", "--config", config]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    rows = read_table(out)
    assert rows["name"][0] == "tiny-one"
    assert rows["source"] == (str(folder), "a local path")
    size = sum(file.stat().st_size for file in folder.iterdir() if file.suffix == ".safetensors")
    chosen, why = rows["checkpoint"]
    assert chosen.startswith("safetensors, ")
    kib = float(re.fullmatch(r"safetensors, (\S+) KiB", chosen)[1])  # type: ignore[index]
    assert kib >= size / 1024 - 0.1
    assert "F32" in why
    assert rows["architecture"][1].startswith("LlamaForCausalLM; plugin ")
    assert rows["device"] == ("cpu", "the config says so")
    assert rows["context length"] == ("256", "the checkpoint's own")
    assert rows["chat template"][0] == "the checkpoint's own"
    assert "'<|im_end|>'" in rows["end of answer"][0]
    assert {"kernel linear", "kernel attention", "kernel embed"} <= set(rows)
    assert rows["kernel embed"][0] == "reference"
    assert {"memory weights", "memory cache", "memory workspace", "memory sum"} <= set(rows)
    assert "available on cpu" in rows["memory sum"][1]


def test_check_as_json_is_the_same(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    config = write_config(tmp_path / "x.yaml", folder, "name: mine\n  " + SETTINGS)
    assert main(["check", "--config", config]) == 0
    rows = read_table(capsys.readouterr().out)
    assert main(["check", "--config", config, "--json"]) == 0
    (plan,) = json.loads(capsys.readouterr().out)
    assert plan["name"] == rows.pop("name")[0] == "mine"
    shown = {line["topic"]: (line["chosen"], line["why"]) for line in plan["choices"]}
    assert set(shown) == set(rows)
    steady = [topic for topic in shown if topic != "memory sum"]  # what is free changes
    assert {topic: shown[topic] for topic in steady} == {topic: rows[topic] for topic in steady}


def test_check_says_who_provides_each_part_and_what_else_would(
    folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    config = write_config(tmp_path / "x.yaml", folder)
    assert main(["check", "--config", config]) == 0
    _, _, table = capsys.readouterr().out.partition("\n\n")
    lines = {" ".join(line.split()) for line in table.splitlines()}
    assert "loader safetensors llmplug:safetensors nothing: it would not start" in lines
    assert "grammar backend llguidance llmplug:llguidance xgrammar, llmplug:xgrammar" in lines
    assert "kernel embed reference - -" in lines
    assert main(["check", "--config", config, "--json"]) == 0
    (plan,) = json.loads(capsys.readouterr().out)
    loader = plan["parts"][0]
    assert loader["without"].startswith("it would not start: ")
    assert {**loader, "without": ""} == {
        "kind": "loader",
        "name": "safetensors",
        "plugin": "llmplug:safetensors",
        "next_name": None,
        "next_plugin": None,
        "without": "",
    }


def test_check_says_why_kernels_are_refused(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    config = write_config(tmp_path / "x.yaml", folder, "dtype: bfloat16\n  " + SETTINGS)
    assert main(["check", "--config", config]) == 0
    chosen, why = read_table(capsys.readouterr().out)["kernel linear"]
    assert chosen == "reference"
    assert "onednn refused: it computes in float32, not in bfloat16" in why


def test_check_reads_no_weight(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise AssertionError("a weight is read")

    monkeypatch.setattr("llmplug.engine.loading.load_weights", fail)
    monkeypatch.setattr(torch, "empty", fail)
    assert main(["check", "--config", write_config(tmp_path / "x.yaml", folder)]) == 0


def test_check_of_several_models_prints_each(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    config = tmp_path / "x.yaml"
    model = f"{{source: {folder}, device: cpu, cache: {{memory: 4MiB}}, name: "
    config.write_text(f"models: [{model}a}}, {model}b}}]")
    assert main(["check", "--config", str(config), "--json"]) == 0
    assert [plan["name"] for plan in json.loads(capsys.readouterr().out)] == ["a", "b"]


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
