"""The measurement of embeddings, whole, with a stand-in that computes them another way."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_encoders import add_modules, make_encoder

from benchmarks.embeddings import LONGEST, SHORTEST, main, make_texts

# What the peer needs of sentence-transformers, by transformers, one text at a time.
STAND_IN = """
import numpy, tokenizers, torch, transformers
__version__ = "stand-in"

class SentenceTransformer:
    def __init__(self, folder, device):
        self.tokenizer = tokenizers.Tokenizer.from_file(folder + "/tokenizer.json")
        self.tokenizer.enable_truncation(64)
        self.model = transformers.AutoModel.from_pretrained(folder).eval()

    def encode(self, texts, batch_size, show_progress_bar):
        rows = []
        for text in texts:
            with torch.inference_mode():
                ids = torch.tensor([self.tokenizer.encode(text).ids])
                states = self.model(ids).last_hidden_state[0]
            rows.append(torch.nn.functional.normalize(states.mean(0), dim=0).numpy())
        return numpy.stack(rows)
"""


def test_both_embed_the_same_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_encoder("BertModel", {"pad_token_id": 0}, tmp_path / "model")
    add_modules(model, "mean_tokens", is_normalised=True)
    config = tmp_path / "config.yaml"
    config.write_text(f"models: [{{name: tiny, source: '{model}', device: cpu}}]\n")
    (tmp_path / "sentence_transformers.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    arguments = ["--config", str(config), "--peer-python", sys.executable]
    assert main([*arguments, "--texts=7", "--batch=3", "--clients=2", "--rounds=2"]) == 0
    lines: list[dict[str, Any]] = [json.loads(x) for x in capsys.readouterr().out.splitlines()]
    rows = {line["server"]: line for line in lines if line["kind"] == "embeddings"}
    assert set(rows) == {"llmplug", "sentence-transformers"}
    assert all(len(row["texts_per_s"]) == 2 for row in rows.values())
    (ratio,) = [line for line in lines if line["kind"] == "ratio"]
    fastest, slowest = (f(rows["llmplug"]["texts_per_s"]) for f in (max, min))
    others = rows["sentence-transformers"]["texts_per_s"]
    assert slowest / max(others) * 0.99 <= ratio["ratio"] <= fastest / min(others) * 1.01
    assert ratio["largest_difference"] < 1e-5
    assert ratio["peer"]["versions"]["sentence-transformers"] == "stand-in"


def test_texts_are_the_same_for_the_same_seed_and_of_all_lengths() -> None:
    texts = make_texts(300, seed=1)
    assert texts == make_texts(300, seed=1)
    assert texts != make_texts(300, seed=2)
    lengths = [len(text.split()) for text in texts]
    assert min(lengths) >= SHORTEST
    assert max(lengths) <= LONGEST
    assert len(set(lengths)) > 100
