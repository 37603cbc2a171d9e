"""`llmplug config` shows where values come from, and never a secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmplug.cli import main
from llmplug.config import schema
from llmplug.plugins import load_all


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "x.yaml"
    path.write_text("models:\n  - source: a.gguf\nserver:\n  api_keys: [hush]\n")
    return path


def test_explain_is_a_table(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "explain", "--config", str(config), "--set", "server.port=1"]) == 0
    out = capsys.readouterr().out
    rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in out.splitlines()}
    assert rows["KEY"] == ["VALUE", "ORIGIN"]
    assert rows["server.port"] == ["1", "--set server.port"]
    assert rows["models.0.source"] == ["a.gguf", f"{config}:2"]
    assert rows["models.0.name"] == ["a", "derived from source"]
    assert rows["server.drain_s"] == ["30.0", "default"]
    assert "hush" not in out


def test_explain_as_json(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "explain", "--json", "--config", str(config)]) == 0
    rows = {row["key"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["server.api_keys.0.key"] == {
        "key": "server.api_keys.0.key",
        "value": "(secret)",
        "origin": f"{config}:4",
    }


def test_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "schema"]) == 0
    assert json.loads(capsys.readouterr().out) == schema(load_all().plugins)


def test_mistake_is_one_line_and_exit_2(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "explain", "--config", str(config), "--set", "server.prot=1"]) == 2
    assert capsys.readouterr().err == (
        "llmplug: error: --set server.prot: unknown key 'prot'; did you mean 'port'?\n"
    )
