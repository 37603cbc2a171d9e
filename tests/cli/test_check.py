"""`llmplug check`: every choice of a start, and why it is that."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch

from llmplug.cli import main
from tests.cli.commands import SETTINGS, Capture, write_config


def read_table(text: str) -> dict[str, tuple[str, str]]:
    """Read what `check` prints first: topic -> (choice, reason)."""
    name, heading, *lines = text.partition("\n\n")[0].splitlines()
    starts = [heading.index(word) for word in ("choice", "is", "because")]
    cells = [
        (line[: starts[1]].strip(), line[starts[1] : starts[2]].strip(), line[starts[2] :].strip())
        for line in lines
    ]
    return {"name": (name, ""), **{topic: (chosen, why) for topic, chosen, why in cells}}


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
