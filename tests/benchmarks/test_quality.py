"""Quality of weight formats: a tiny model, and what transformers says of the same weights."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import load_reference, make_checkpoint, reference_logits

from benchmarks import quality
from llmplug.chat.tokenizer import Tokenizer
from tests.tiny import open_checkpoint

WINDOW = 100
SENTENCE = "Twelve grey geese flew over the harbour, and nobody counted them. "


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def rows(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    config, text = (tmp_path_factory.mktemp("in") / name for name in ("c.yaml", "text.txt"))
    config.write_text(f"models:\n  - source: {folder}\n    cache: {{memory: 64MiB}}\n")
    text.write_text(4 * SENTENCE)
    with pytest.MonkeyPatch.context() as patch:
        printed: list[str] = []
        patch.setattr("builtins.print", lambda line, **kwargs: printed.append(line))
        argv = ["--config", str(config), "--text", str(text), "--window", str(WINDOW)]
        assert quality.main(argv) == 0
    lines = [json.loads(line) for line in printed]
    assert [line["kind"] for line in lines] == ["quality"] * 3
    return {line["format"]: line for line in lines}


def test_float32_is_what_transformers_computes(
    folder: Path, rows: dict[str, dict[str, Any]]
) -> None:
    token_ids = Tokenizer(open_checkpoint(folder).tokenizer).encode(4 * SENTENCE)
    model, losses = load_reference(folder), []
    for at in range(0, len(token_ids), WINDOW):
        window = token_ids[at : at + WINDOW]
        logits_TV = reference_logits(model, window)[:-1]
        losses += F.cross_entropy(logits_TV, torch.tensor(window[1:]), reduction="none").tolist()
    row = rows["float32"]
    assert row["tokens"] == len(losses) == len(token_ids) - 3  # the last of each window
    expected = math.exp(sum(losses) / len(losses))
    assert row["reference_perplexity"] == pytest.approx(expected, rel=1e-4)
    assert row["kl_mean"] <= row["kl_max"] < 1e-3  # the cache in half precision
    assert row["same_argmax"] > 0.98


def test_int8_is_smaller_and_a_little_worse(rows: dict[str, dict[str, Any]]) -> None:
    exact, row = rows["float32"], rows["int8"]
    if "error" in row:
        pytest.skip(row["error"])  # no compiler, or no AVX2
    assert row["kept"] == ["int8"]
    assert exact["linear_bytes"] / 4 <= row["linear_bytes"] < exact["linear_bytes"] / 2
    assert exact["kl_mean"] < row["kl_mean"] < 0.1
    assert row["perplexity"] == pytest.approx(row["reference_perplexity"], rel=0.1)
    assert row["reference_perplexity"] == exact["reference_perplexity"]


def test_format_that_the_file_does_not_allow_is_said(rows: dict[str, dict[str, Any]]) -> None:
    assert "int4" in rows["int4"]["error"]
    assert "kl_mean" not in rows["int4"]


def test_divergence_is_that_of_torch() -> None:
    numbers = torch.Generator().manual_seed(1)
    reference_RV, logits_RV = torch.randn(2, 5, 40, generator=numbers)
    sums = quality.Quality()
    sums.add(reference_RV[:2], logits_RV[:2], torch.tensor([3, 4]))
    sums.add(reference_RV[2:], logits_RV[2:], torch.tensor([5, 6, 7]))
    log_RV = logits_RV.log_softmax(-1), reference_RV.log_softmax(-1)
    kl_R = F.kl_div(*log_RV, reduction="none", log_target=True).sum(-1)
    row = sums.as_row()
    assert row["kl_mean"] == pytest.approx(float(kl_R.mean()), rel=1e-3)
    assert row["kl_max"] == pytest.approx(float(kl_R.max()), rel=1e-3)
    loss = F.cross_entropy(logits_RV, torch.arange(3, 8))
    assert row["perplexity"] == pytest.approx(math.exp(loss), rel=1e-4)
    same = reference_RV.argmax(-1) == logits_RV.argmax(-1)
    assert row["same_argmax"] == pytest.approx(float(same.float().mean()))


def test_text_is_long_enough_to_say_something() -> None:
    assert len(quality.TEXT.read_text().split()) > 1600  # over 2000 tokens of any vocabulary
