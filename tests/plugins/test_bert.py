"""Encoders and classifiers against transformers: alone, and packed with others of all lengths."""

from __future__ import annotations

import random
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_encoders import (
    CLASSIFIERS,
    ENCODERS,
    TYPELESS,
    add_dense,
    add_modules,
    compute_hidden,
    make_encoder,
)

from llmplug import CheckpointError, InvalidRequest, assemble
from llmplug.build import build_engine
from llmplug.config import Config
from llmplug.engine.pooling import PoolingEngine
from llmplug.testing import check_model
from llmplug.types import PoolRequest

SETTINGS: dict[str, Any] = {"scheduler": {"max_batch_tokens": 300}}


def ignore(stage: str, done: int, total: int) -> None:
    pass


def open_engine(folder: Path, **fields: Any) -> PoolingEngine:
    config = Config.model_validate({"models": [{"source": str(folder), **SETTINGS, **fields}]})
    registry = assemble.load_registry(config)
    plan = assemble.plan_model(config.models[0], registry, ignore)
    engine = build_engine(plan, registry, ignore)
    assert isinstance(engine, PoolingEngine)
    return engine


def run(engine: PoolingEngine, prompts: list[list[int]], **fields: Any) -> list[np.ndarray]:
    engine.add(PoolRequest(request_id="a", prompts=prompts, **fields))
    results = []
    while engine.has_work:
        results += engine.step().results
    (result,) = results
    assert result.error is None
    values = np.frombuffer(result.values, "<f4")
    return np.split(values, np.cumsum(result.lengths)[:-1])


def make_prompts(seed: int = 3) -> list[list[int]]:
    """64 texts of 64 lengths, in disorder."""
    rng = random.Random(seed)
    lengths = rng.sample(range(1, 65), 64)
    return [[rng.randrange(4, 30) for _ in range(length)] for length in lengths]


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize(
    ("mode", "is_normalised"), [("mean_tokens", True), ("cls_token", False), ("max_tokens", False)]
)
def test_embeddings_equal_transformers(
    tmp_path: Path, name: str, mode: str, is_normalised: bool
) -> None:
    kind, changes = ENCODERS[name]
    folder = make_encoder(kind, changes, tmp_path)
    add_modules(folder, mode, is_normalised=is_normalised)
    prompts = make_prompts()
    expected = []
    for hidden_TD in compute_hidden(folder, kind, prompts):
        pooled = {
            "mean_tokens": hidden_TD.mean(0),
            "cls_token": hidden_TD[0],
            "max_tokens": hidden_TD.amax(0),
        }[mode]
        expected.append(F.normalize(pooled, dim=0) if is_normalised else pooled)
    engine = open_engine(folder)
    together = run(engine, prompts)
    for i, vector in enumerate(expected):
        np.testing.assert_allclose(together[i], vector.numpy(), atol=1e-5)
    for i in (0, 17, 63):
        (alone,) = run(engine, [prompts[i]])
        np.testing.assert_allclose(alone, expected[i].numpy(), atol=1e-5)


def test_dense_layers_are_those_of_torch(tmp_path: Path) -> None:
    """Two of them, the first with a bias; widths change, and tokens keep theirs."""
    kind, changes = ENCODERS["bert"]
    folder = make_encoder(kind, changes, tmp_path)
    add_modules(folder, "mean_tokens", is_normalised=True)
    first, second = torch.nn.Linear(48, 70), torch.nn.Linear(70, 20, bias=False)
    add_dense(folder, 2, first, "activation.Tanh")
    add_dense(folder, 3, second, "linear.Identity")
    prompts = make_prompts()
    hidden = compute_hidden(folder, kind, prompts)
    with torch.inference_mode():
        expected = [F.normalize(second(first(each.mean(0)).tanh()), dim=0) for each in hidden]
    engine = open_engine(folder)
    assert engine.ready_message().width == 20
    for vector, found in zip(expected, run(engine, prompts), strict=True):
        np.testing.assert_allclose(found, vector.numpy(), atol=1e-5)
    for i in (0, 17, 63):
        (alone,) = run(engine, [prompts[i]])
        np.testing.assert_allclose(alone, expected[i].numpy(), atol=1e-5)
    (cut,) = run(engine, [prompts[0]], dimensions=7, is_normalised=False)
    with torch.inference_mode():
        raw = second(first(hidden[0].mean(0)).tanh())
    np.testing.assert_allclose(cut, raw[:7].numpy(), atol=1e-5)
    with pytest.raises(InvalidRequest, match="from 1 to 20"):
        run(engine, [prompts[0]], dimensions=21)
    (tokens,) = run(engine, [prompts[0]], task="token_embed", dimensions=48, is_normalised=False)
    np.testing.assert_allclose(tokens, hidden[0].flatten().numpy(), atol=1e-5)


@pytest.mark.parametrize("name", ["ReLU", "GELU", "SiLU", "Sigmoid", "Tanh"])
def test_activations_are_those_of_torch(tmp_path: Path, name: str) -> None:
    kind, changes = ENCODERS["bert"]
    folder = make_encoder(kind, changes, tmp_path)
    add_modules(folder, "cls_token", is_normalised=False)
    layer = torch.nn.Linear(48, 30)
    add_dense(folder, 2, layer, f"activation.{name}")
    (hidden_TD,) = compute_hidden(folder, kind, [[5, 6, 7]])
    with torch.inference_mode():
        expected = getattr(torch.nn, name)()(layer(hidden_TD[0]))
    (found,) = run(open_engine(folder), [[5, 6, 7]])
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_scores_equal_transformers(tmp_path: Path, name: str) -> None:
    kind, changes = CLASSIFIERS[name]
    folder = make_encoder(kind, changes, tmp_path)
    prompts = make_prompts()
    num_types = 1 if kind.startswith(TYPELESS) else changes.get("type_vocab_size", 2)
    types = [[(i >= len(ids) // 2) * (num_types - 1) for i in range(len(ids))] for ids in prompts]
    engine = open_engine(folder, cache={"dtype": "float32"})
    found = run(engine, prompts, type_ids=types, task="classify")
    for logits, expected in zip(found, compute_hidden(folder, kind, prompts, types), strict=True):
        np.testing.assert_allclose(logits, expected.numpy(), atol=1e-5)
    plain = run(engine, prompts[:3], task="classify")
    for logits, expected in zip(plain, compute_hidden(folder, kind, prompts[:3]), strict=True):
        np.testing.assert_allclose(logits, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    "kind", [*ENCODERS.values(), *CLASSIFIERS.values()], ids=lambda kind: kind[0]
)
def test_what_holds_for_every_model(tmp_path: Path, kind: tuple[str, dict[str, Any]]) -> None:
    specs = [
        spec
        for point in entry_points(group="llmplug")
        if hasattr(plugin := point.load(), "llmplug_models")
        for spec in plugin.llmplug_models()
    ]
    (spec,) = [spec for spec in specs if kind[0] in spec.architectures]
    check_model(spec, make_encoder(*kind, tmp_path))


def test_token_embeddings_are_the_hidden_states(tmp_path: Path) -> None:
    kind, changes = ENCODERS["bert"]
    folder = make_encoder(kind, changes, tmp_path)
    prompts = make_prompts()[:5]
    engine = open_engine(folder)
    found = run(engine, prompts, task="token_embed", is_normalised=False)
    for states, expected in zip(found, compute_hidden(folder, kind, prompts), strict=True):
        np.testing.assert_allclose(states.reshape(expected.shape), expected.numpy(), atol=1e-5)


def test_dimensions_are_cut_and_normalised_again(tmp_path: Path) -> None:
    kind, changes = ENCODERS["bert"]
    folder = make_encoder(kind, changes, tmp_path)
    engine = open_engine(folder)
    prompts = make_prompts()[:4]
    whole = run(engine, prompts, is_normalised=False)
    for vector, full in zip(run(engine, prompts, dimensions=7), whole, strict=True):
        expected = full[:7] / np.linalg.norm(full[:7])
        np.testing.assert_allclose(vector, expected, atol=1e-6)


def test_a_decoder_embeds_by_its_last_token(tmp_path: Path) -> None:
    from tiny import make_checkpoint
    from transformers import AutoModel

    folder = make_checkpoint("qwen3", tmp_path)
    add_modules(folder, "lasttoken", is_normalised=True)
    prompts = make_prompts()
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    engine = open_engine(folder, cache={"dtype": "float32"})
    found = run(engine, prompts)
    for vector, ids in zip(found, prompts, strict=True):
        with torch.inference_mode():
            hidden_TD = model(torch.tensor([ids])).last_hidden_state[0]
        expected = F.normalize(hidden_TD[-1], dim=0).numpy()
        np.testing.assert_allclose(vector, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"hidden_act": "tanh"}, "hidden_act"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"is_decoder": True}, "is_decoder"),
    ],
)
def test_settings_that_change_the_result_are_refused(changes: dict[str, Any], word: str) -> None:
    from llmplug_bert.settings import read_settings

    config = {"architectures": ["BertModel"], "vocab_size": 10, **changes}
    with pytest.raises(CheckpointError, match=word):
        read_settings(config)
