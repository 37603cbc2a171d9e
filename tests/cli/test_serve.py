"""`serve`: what runs in which process, in which order, and what is left when a start fails."""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from plugins.gguf_files import convert
from plugins.quantised_folders import FORMATS, write_folders
from safetensors.torch import load_file
from tiny import VARIANTS, make_checkpoint
from tokenizers.pre_tokenizers import ByteLevel

from benchmarks.processes import list_tree
from llmplug import SourceError, assemble
from llmplug.cli import main
from llmplug.config import from_source
from llmplug.engine import process
from llmplug.plan import SequenceRules

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")

DEADLINE_S = 120.0
HEAVY = {"torch", "transformers", "triton"}
SETTINGS = "device: cpu, cache: {memory: 4MiB}, threads: 1"


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def is_quiet(pid: int) -> bool:
    """Watch a process and its descendants for so long that whatever polls would have woken up."""
    tasks = [task for each in list_tree(pid) for task in Path(f"/proc/{each}/task").iterdir()]

    def count_wakeups() -> int:
        status = "".join((task / "status").read_text() for task in tasks)
        return sum(map(int, re.findall(r"(?m)^voluntary_ctxt_switches:\s+(\d+)", status)))

    try:
        before = count_wakeups()
        time.sleep(2.5)  # the period that is watched, not a wait for something
        return count_wakeups() == before
    except FileNotFoundError:  # a thread has just ended
        return False


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("llama", tmp_path_factory.mktemp("made") / "tiny-one")


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose vocabulary is the bytes, one pair of them, and the end."""
    folder = make_checkpoint("llama", tmp_path_factory.mktemp("converted"))
    tokens = [*sorted(ByteLevel.alphabet()), "ab", "<|im_end|>"]
    fields = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * 257 + [3],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.eos_token_id": 257,
    }
    config = load_config(folder)
    tensors = load_file(folder / "model.safetensors")
    return convert(folder / "tiny.gguf", "llama", config, tensors, fields)


def load_config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    config.setdefault("head_dim", config["hidden_size"] // config["num_attention_heads"])
    return config


# --- who imports what ---------------------------------------------------------------------------
NOTE_MODULES = """
import atexit, os, pathlib, sys
def note():
    lines = [" ".join(sys.argv), *sorted(sys.modules)]
    pathlib.Path({folder!r}, str(os.getpid())).write_text("\\n".join(lines))
atexit.register(note)
"""


def test_a_server_never_imports_torch_and_nobody_transformers_or_polls(
    folder: Path, gguf: Path, tmp_path: Path
) -> None:
    """From the start to the end, answers included, with a model in either format."""
    notes, site, log = tmp_path / "notes", tmp_path / "site", tmp_path / "log.txt"
    notes.mkdir()
    site.mkdir()
    (site / "sitecustomize.py").write_text(NOTE_MODULES.format(folder=str(notes)))
    config = tmp_path / "x.yaml"
    config.write_text(
        f"server: {{port: 0}}\nmodels:\n"
        f"- {{source: {folder}, name: one, {SETTINGS}}}\n"
        f"- {{source: {gguf}, name: two, {SETTINGS}}}\n"
    )
    with log.open("wb") as file:
        server = subprocess.Popen(
            [sys.executable, "-m", "llmplug", "serve", "--config", str(config)],
            stderr=file,
            env={**os.environ, "PYTHONPATH": f"{site}:{os.environ.get('PYTHONPATH', '')}"},
        )
    try:
        until(lambda: server.poll() is not None or "listening on" in log.read_text())
        match = re.search(r"listening on (http://\S+)", log.read_text())
        assert match, log.read_text()
        url = match[1]
        until(lambda: httpx.get(f"{url}/ready", timeout=DEADLINE_S).status_code == 200)
        for name in ("one", "two"):
            body = {"model": name, "prompt": "ab", "max_tokens": 3, "ignore_eos": True}
            answer = httpx.post(f"{url}/v1/completions", json=body, timeout=DEADLINE_S)
            assert answer.json()["usage"]["completion_tokens"] == 3
        until(lambda: is_quiet(server.pid))
    finally:
        server.terminate()
        status = server.wait(DEADLINE_S)
    assert status == 0, log.read_text()
    found = {}
    for path in notes.iterdir():
        argv, *modules = path.read_text().splitlines()
        role = re.search(r"llmplug/__main__\.py (\S+)", argv)
        assert role, argv
        found.setdefault(role[1], []).append(HEAVY & set(modules))
    assert found == {"serve": [set(), set()], "engine": [{"torch"}, {"torch"}]}
    for name in ("one", "two"):
        seconds = re.search(rf"{name} is ready in (\S+) s: imports (\S+)[,\n]", log.read_text())
        assert seconds, log.read_text()
        assert 0 < float(seconds[2]) <= float(seconds[1])


PLAN_TEXT = """
import sys
from llmplug.assemble import load_registry, plan_text
from llmplug.config import from_source
for source in sys.argv[1:]:
    config = from_source(source)
    plan_text(config.models[0], load_registry(config), lambda stage, done, total: None)
print(sorted({"torch", "transformers", "triton"} & sys.modules.keys()))
"""


def assert_planned_without_torch(folders: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PLAN_TEXT, *folders], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_no_architecture_needs_torch_to_be_described(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    made = tmp_path_factory.mktemp("variants")
    assert_planned_without_torch(
        [str(make_checkpoint(variant, made / variant)) for variant in VARIANTS]
    )


def test_no_quantised_checkpoint_needs_torch_to_be_opened(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    made = tmp_path_factory.mktemp("quantised")
    assert_planned_without_torch(
        [str(write_folders(made / name, *FORMATS[name])[0]) for name in FORMATS]
    )


# --- engines that run ahead ---------------------------------------------------------------------
@pytest.fixture
def spawned(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: Any) -> Iterator[list[int]]:
    """The engine processes that were started, in order; none may outlive the test."""
    sockets = tmp_path_factory.mktemp("s")
    monkeypatch.setenv("TMPDIR", str(sockets))
    monkeypatch.setattr("tempfile.tempdir", None)
    pids: list[int] = []
    spawn = process._spawn

    def note(argv: Any) -> Any:
        child = spawn(argv)
        pids.append(child.pid)
        return child

    monkeypatch.setattr(process, "_spawn", note)
    yield pids
    assert [pid for pid in pids if is_alive(pid)] == []
    assert list(sockets.iterdir()) == []


def write_config(path: Path, folder: Path, *more: str) -> str:
    """Write a config with a model for each of `more`, named a, b, ..."""
    models = "".join(
        f"- {{source: {folder}, name: {name}, {SETTINGS}{each}}}\n"
        for name, each in zip("ab", more, strict=False)
    )
    path.write_text(f"server: {{port: 0}}\nlog: {{level: error}}\nmodels:\n{models}")
    return str(path)


def test_engines_start_before_the_plan_and_end_if_it_fails(
    spawned: list[int], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    alive: list[bool] = []

    def plan_text(*args: object) -> None:
        alive.extend(is_alive(pid) for pid in spawned)
        raise SourceError("the plan fails")

    monkeypatch.setattr("llmplug.assemble.plan_text", plan_text)
    assert main(["serve", "--config", write_config(tmp_path / "x.yaml", folder, "", "")]) == 2
    assert capsys.readouterr().err == "llmplug: error: the plan fails\n"
    assert alive == [True] * 4  # both, when the plan of either is made


def test_the_first_engine_starts_before_the_config_is_read(
    spawned: list[int], tmp_path: Path, capsys: Any
) -> None:
    assert main(["serve", "--config", str(tmp_path / "no.yaml")]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert len(spawned) == 1


def test_an_interrupted_plan_leaves_no_engine(
    spawned: list[int], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan_text(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("llmplug.assemble.plan_text", plan_text)
    assert main(["serve", "--config", write_config(tmp_path / "x.yaml", folder, "")]) == 130
    assert len(spawned) == 1
    assert gc.isenabled()


def test_a_mistake_that_only_an_engine_finds_ends_the_server(
    spawned: list[int], folder: Path, tmp_path: Path, capsys: Any
) -> None:
    """Even though the other model could be served: the config must change."""
    config = write_config(tmp_path / "x.yaml", folder, "", ", kernels: {block: [onednnn]}")
    assert main(["serve", "--config", config]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("llmplug: error: kernels.block: ")
    assert "did you mean 'onednn'?" in last
    assert len(spawned) == 2


def test_halves_make_the_plan_that_is_printed(folder: Path) -> None:
    """What `check` says of a model is what a server and its engine do."""
    config = from_source(str(folder), sets=["models.0.device=cpu", "models.0.cache.memory=4MiB"])
    registry = assemble.load_registry(config)

    def ignore(stage: str, done: int, total: int) -> None:
        """Draw no bars."""

    whole = assemble.plan_model(config.models[0], registry, ignore)
    text = assemble.plan_text(config.models[0], registry, ignore)
    rules = msgspec.convert(msgspec.json.decode(msgspec.json.encode(text.rules)), SequenceRules)
    assert rules == text.rules
    again = assemble.open_files(config.models[0], text.files.path, registry, [])
    engine = assemble.plan_engine(config.models[0], again, rules, registry)
    assert engine.settings == whole.settings
    assert engine.kernels == whole.kernels
    steady = [line for line in whole.report() if line.topic != "memory sum"]
    halves = [*text.choices, *engine.report()]
    assert [line for line in halves if line.topic != "memory sum"] == steady
