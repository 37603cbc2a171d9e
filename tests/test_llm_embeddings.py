"""`LLM` over a model that reads texts whole: its vectors are transformers'."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import make_checkpoint
from tiny_encoders import add_modules, compute_hidden, make_encoder

from llmplug import LLM, ContextLengthExceeded, InvalidRequest
from llmplug.config import from_source


def ignore_progress(stage: str, done: int, total: int) -> None:
    """Tests draw no bars."""


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_encoder("BertModel", {"pad_token_id": 0}, tmp_path_factory.mktemp("encoder"))
    add_modules(folder, "mean_tokens", is_normalised=True, max_tokens=20)
    prompts = {"prompts": {"query": "q "}}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    return folder


@pytest.fixture(scope="module")
def embedder(encoder_folder: Path) -> Iterator[LLM]:
    config = from_source(str(encoder_folder), sets=["models.0.device=cpu"])
    with LLM(config, progress=ignore_progress) as llm:
        yield llm
        assert not llm._engine.has_work


def embed_with_transformers(folder: Path, ids: list[list[int]]) -> np.ndarray:
    states = compute_hidden(folder, "BertModel", ids)
    return torch.stack([F.normalize(each.mean(0), dim=0) for each in states]).numpy()


def test_embeddings_are_those_of_transformers(embedder: LLM, encoder_folder: Path) -> None:
    texts = ["ab c", "z", "[SEP]", "hello there"]
    ids = [embedder.tokenizer.encode(text, allow_control=False) for text in texts]
    expected = embed_with_transformers(encoder_folder, ids)
    np.testing.assert_allclose(embedder.embed(texts), expected, atol=1e-5)
    np.testing.assert_allclose(embedder.embed(ids), expected, atol=1e-5)
    np.testing.assert_allclose(embedder.embed("z"), expected[1:2], atol=1e-5)
    asked = embedder.embed(["z"], prompt_name="query")
    np.testing.assert_allclose(asked, embedder.embed(["q z"]), atol=1e-6)
    cut = expected[:, :5] / np.linalg.norm(expected[:, :5], axis=1, keepdims=True)
    np.testing.assert_allclose(embedder.embed(texts, dimensions=5), cut, atol=1e-5)
    raw = embedder.embed(texts, is_normalised=False)
    np.testing.assert_allclose(
        raw / np.linalg.norm(raw, axis=1, keepdims=True), expected, atol=1e-5
    )


def test_more_texts_than_a_request_holds(embedder: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["a" * (i % 9 + 1) for i in range(23)]
    expected = embedder.embed(texts)
    monkeypatch.setattr("llmplug.llm.MAX_TEXTS", 5)
    np.testing.assert_allclose(embedder.embed(texts), expected, atol=1e-6)
    assert embedder.embed([]).shape == (0, 48)


def test_long_texts_are_refused_or_cut(embedder: LLM) -> None:
    with pytest.raises(ContextLengthExceeded, match="20 tokens"):
        embedder.embed(["a" * 30])
    assert not embedder._engine.has_work
    cut = embedder.embed(["a" * 30], is_cut=True)
    np.testing.assert_allclose(cut, embedder.embed(["a" * 18]), atol=1e-6)


def test_a_model_does_what_it_is_for(embedder: LLM, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="generates none"):
        embedder.generate("a")
    source = make_checkpoint("llama", tmp_path, max_position_embeddings=128)
    exact = ("models.0.device=cpu", "models.0.cache.memory=8MiB")
    config = from_source(str(source), sets=exact)
    with (
        LLM(config, progress=ignore_progress) as llm,
        pytest.raises(InvalidRequest, match="generates"),
    ):
        llm.embed("a")
    with pytest.raises(InvalidRequest, match="this model knows: query"):
        embedder.embed("a", prompt_name="title")
