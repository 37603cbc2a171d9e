"""`llmplug batch`: a file of requests, answered without a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import make_checkpoint

from llmplug import LLM, SamplingParams
from llmplug.cli import main

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("made")
    source = make_checkpoint("llama", folder / "tiny-one")
    path = folder / "x.yaml"
    path.write_text(
        f"models:\n- source: {source}\n  device: cpu\n  cache: {{memory: 4MiB}}\n  threads: 1\n"
    )
    return str(path)


def write_input(path: Path, *prompts: str, **fields: Any) -> str:
    body = {"model": "tiny-one", "max_tokens": 4, "temperature": 0, **fields}
    lines = [
        {
            "custom_id": f"line-{i}",
            "method": "POST",
            "url": "/v1/completions",
            "body": {**body, "prompt": prompt},
        }
        for i, prompt in enumerate(prompts)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def read_texts(path: Path) -> list[tuple[str, str]]:
    answers = [json.loads(line) for line in path.read_text().splitlines()]
    return sorted(
        (each["custom_id"], each["response"]["body"]["choices"][0]["text"]) for each in answers
    )


def test_answers_and_goes_on(config: str, tmp_path: Path, capsys: Capture) -> None:
    """A run that was killed wrote some lines, and perhaps the beginning of one."""
    prompts = [f"Number {i}" for i in range(6)]
    source, out = write_input(tmp_path / "in.jsonl", *prompts), tmp_path / "out.jsonl"
    with LLM(config, progress=lambda *_: None) as llm:
        answers = llm.generate(prompts, SamplingParams(max_tokens=4, temperature=0))
    wanted = [(f"line-{i}", answer.text) for i, answer in enumerate(answers)]
    assert main(["batch", source, str(out), "--config", config]) == 0
    assert read_texts(out) == wanted
    assert "6 lines: 6 answered now, 0 before; 0 with an error" in capsys.readouterr().err

    whole = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(whole[:3]) + whole[3][:20])
    assert main(["batch", source, str(out), "--config", config, "--at-once", "2"]) == 0
    assert read_texts(out) == wanted
    assert out.read_bytes().splitlines(keepends=True)[:3] == whole[:3]
    told = capsys.readouterr().err
    assert "3 answered now, 3 before" in told
    assert "answering: 100 %" in told

    before = out.read_bytes()
    assert main(["batch", source, str(out), "--config", config]) == 0
    assert out.read_bytes() == before


def test_errors_are_answers(config: str, tmp_path: Path, capsys: Capture) -> None:
    source = write_input(tmp_path / "in.jsonl", "Hi", max_tokens=-1)
    out = tmp_path / "out.jsonl"
    for _ in range(2):  # the second time it is only told again
        assert main(["batch", source, str(out), "--config", config]) == 1
        assert "1 with an error" in capsys.readouterr().err
    (line,) = out.read_text().splitlines()
    response = json.loads(line)["response"]
    assert (response["status_code"], response["body"]["error"]["param"]) == (400, "max_tokens")


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("{}\n", "line 1: custom_id must be"),
        ("", "holds no line"),
        (None, "No such file"),
    ],
)
def test_wrong_input(
    config: str, tmp_path: Path, capsys: Capture, lines: str | None, told: str
) -> None:
    path = tmp_path / "in.jsonl"
    if lines is not None:
        path.write_text(lines)
    assert main(["batch", str(path), str(tmp_path / "out"), "--config", config]) == 2
    assert told in capsys.readouterr().err


def test_no_model_of_the_config(config: str, tmp_path: Path, capsys: Capture) -> None:
    source = write_input(tmp_path / "in.jsonl", "Hi", model="other")
    assert main(["batch", source, str(tmp_path / "out"), "--config", config]) == 2
    assert "no line names a model of the config: tiny-one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("held", "told"),
    [
        ('{"custom_id": "x", "response": {"status_code": 200}}\n', "answers to other lines"),
        ("no answer\n", "line 1: no answer"),
        ("{}\n", "line 1: no answer"),
    ],
)
def test_output_of_something_else(
    config: str, tmp_path: Path, capsys: Capture, held: str, told: str
) -> None:
    source, out = write_input(tmp_path / "in.jsonl", "Hi"), tmp_path / "out"
    out.write_text(held)
    assert main(["batch", source, str(out), "--config", config]) == 2
    assert told in capsys.readouterr().err
    assert out.read_text() == held
