"""The check of models finds what is planted, and passes what is right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import make_checkpoint
from tiny_encoders import CLASSIFIERS, ENCODERS, make_encoder

import llmplug_bert
import llmplug_llama
import llmplug_modernbert
from llmplug import BuildContext, ModelSpec
from llmplug.ops import AttentionBatch
from llmplug.testing import check_model
from llmplug.testing.folder_checkpoint import open_folder
from llmplug.testing.thread_ranks import build_ranks

Change = Callable[[BuildContext], Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("llama-biases", tmp_path_factory.mktemp("model"))


def find_spec(plugin: Any, architecture: str) -> ModelSpec:
    return next(s for s in plugin.llmplug_models() if architecture in s.architectures)


LLAMA = find_spec(llmplug_llama, "LlamaForCausalLM")


class Changed:
    """A model that is right, with something changed in front of it or behind."""

    def __init__(self, context: BuildContext) -> None:
        self.inner = LLAMA.build(context)

    def forward(self, token_ids_T, positions_T, caches, attention: AttentionBatch):
        return self.inner.forward(token_ids_T, positions_T, caches, attention)

    def compute_logits(self, hidden_SD: torch.Tensor) -> torch.Tensor:
        return self.inner.compute_logits(hidden_SD)


class CountsPlacesInTheStep(Changed):
    def forward(self, token_ids_T, positions_T, caches, attention):
        places_T = torch.arange(len(token_ids_T))
        return super().forward(token_ids_T, places_T, caches, attention)


class MixesSequences(Changed):
    def forward(self, token_ids_T, positions_T, caches, attention):
        hidden_TD = super().forward(token_ids_T, positions_T, caches, attention)
        is_alone = len(attention.query_lens) == 1
        return hidden_TD if is_alone else hidden_TD + hidden_TD.mean(0) * 0.001


class CountsForItself(Changed):
    """Counts the tokens of each sequence that it has run, and knows of no cached prefix."""

    def forward(self, token_ids_T, positions_T, caches, attention):
        places, first = [], 0
        for table_M, length in zip(attention.block_table_SM, attention.query_lens, strict=True):
            sequence = int(table_M[-1])  # a page of its own
            if positions_T[first] == 0:
                self.num_run[sequence] = 0
            start = self.num_run.get(sequence, 0)
            places.append(torch.arange(start, start + length))
            self.num_run[sequence] = start + length
            first += length
        return super().forward(token_ids_T, torch.cat(places), caches, attention)

    num_run: dict[int, int] = {}  # noqa: RUF012 - what a model must not do


class ReturnsHalfLogits(Changed):
    def compute_logits(self, hidden_SD):
        logits_SV = super().compute_logits(hidden_SD)
        return logits_SV.to(hidden_SD.dtype)


def turn_wrongly(context: BuildContext) -> Any:
    rope = {"rope_type": "default", "rope_theta": 11_000.0}
    return LLAMA.build(replace(context, config={**context.config, "rope_parameters": rope}))


def forget_a_norm(context: BuildContext) -> Any:
    weights = dict(context.weights)
    name = next(name for name in weights if "norm" in name)
    return LLAMA.build(replace(context, weights={**weights, name: torch.ones_like(weights[name])}))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (turn_wrongly, r"logits of a whole prompt differ .* positions \(rope\)"),
        (forget_a_norm, "logits of a whole prompt differ"),
        (CountsPlacesInTheStep, "logits of a prompt in chunks of 1 differ"),
        (MixesSequences, "logits of sequence 0 differ .* where steps hold several sequences"),
        (CountsForItself, "logits behind 24 tokens that another sequence has cached differ"),
        (ReturnsHalfLogits, r"`compute_logits` returns torch\.bfloat16"),
    ],
)
def test_a_planted_bug_is_found(folder: Path, build: Change, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_model(replace(LLAMA, build=build), folder)


def test_a_wrong_weight_table_is_found(folder: Path) -> None:
    """Keys and values swapped: the shapes are right."""

    def swap(config: Any) -> list[Any]:
        table = []
        for weight in LLAMA.weights(config):
            names = [
                name.replace("k_proj", "?").replace("v_proj", "k_proj") for name in weight.sources
            ]
            sources = tuple(name.replace("?", "v_proj") for name in names)
            table.append(replace(weight, sources=sources))
        return table

    with pytest.raises(AssertionError, match="the order of joined weights"):
        check_model(replace(LLAMA, weights=swap), folder)


def build_for_one_rank(context: BuildContext) -> Any:
    return LLAMA.build(replace(context, num_ranks=1))


def share_the_wrong_heads(context: BuildContext) -> Any:
    """Keys and values of one head too many."""
    layers = tuple(replace(layer, num_kv_heads=2) for layer in context.shape.layers)
    return LLAMA.build(replace(context, shape=replace(context.shape, layers=layers)))


def divide(name: str, **fields: Any) -> Callable[[Any], list[Any]]:
    """The right table, but for how one weight is divided."""

    def make(config: Any) -> list[Any]:
        return [replace(w, **fields) if w.name == name else w for w in LLAMA.weights(config)]

    return make


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"build": build_for_one_rank}, "2 ranks do not compute what one does"),
        ({"build": share_the_wrong_heads}, "2 ranks do not compute what one does"),
        ({"weights": divide("head", split="outputs")}, "rank 1 has other logits than rank 0"),
        ({"weights": divide("layers.{layer}.o", split=None)}, "2 ranks do not compute what one"),
        (
            {"weights": divide("layers.{layer}.down", split_unit=25)},
            "ranks cannot do it: 75 columns of layers.0.down in units of 25 are not",
        ),
    ],
)
def test_a_wrong_division_is_found(folder: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_model(replace(LLAMA, **change), folder)


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "layers.{layer}.qkv", "split_parts": (), "split_unit": 8},
        {"name": "layers.{layer}.gate_up", "split_parts": ()},
        {"name": "layers.{layer}.o", "split": None},
        {},  # the model reckons with all heads
    ],
    ids=lambda fields: fields.get("name", "heads"),
)
def test_a_wrong_division_of_an_encoder_is_found(fields: dict[str, Any], tmp_path: Path) -> None:
    kind, changes = ENCODERS["modernbert-biases"]
    spec = find_spec(llmplug_modernbert, kind)

    def list_weights(config: Any) -> list[Any]:
        table = spec.weights(config)
        return [replace(w, **fields) if w.name == fields.get("name") else w for w in table]

    def build(context: BuildContext) -> Any:
        return spec.build(context if fields else replace(context, num_ranks=1))

    changed = replace(spec, weights=list_weights, build=build)
    with pytest.raises(AssertionError, match="ranks do not compute what one does"):
        check_model(changed, make_encoder(kind, changes, tmp_path))


def test_few_ranks_and_many_are_tried(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model has six query heads and two of keys and values."""
    tried = []

    def build_noted(spec: Any, checkpoint: Any, num_ranks: int, **options: Any) -> Any:
        tried.append(num_ranks)
        return build_ranks(spec, checkpoint, num_ranks, **options)

    monkeypatch.setattr("llmplug.testing.models.build_ranks", build_noted)
    check_model(LLAMA, folder)
    assert tried == [2, 6]


def test_a_model_of_another_name_is_said(folder: Path) -> None:
    with pytest.raises(AssertionError, match="is a LlamaForCausalLM, which 'mine' does not claim"):
        check_model(replace(LLAMA, name="mine", architectures=("OtherForCausalLM",)), folder)


def test_another_reference_may_be_given(folder: Path) -> None:
    """Of an architecture that transformers lacks; here one that is wrong by a little."""
    checkpoint = open_folder(folder)
    config = {**checkpoint.config, "architectures": ["MyForCausalLM"]}
    mine = replace(LLAMA, architectures=("MyForCausalLM",))
    renamed = replace(checkpoint, config=config)
    with pytest.raises(AssertionError, match="transformers has no MyForCausalLM: give `reference`"):
        check_model(mine, renamed)
    with pytest.raises(AssertionError, match="logits of a whole prompt differ"):
        check_model(mine, renamed, reference=lambda ids: torch.zeros(len(ids), 263))


def test_a_right_model_passes(folder: Path) -> None:
    check_model(replace(LLAMA, build=Changed), folder)


@pytest.mark.parametrize("kinds", [ENCODERS, CLASSIFIERS])
def test_texts_that_are_read_whole(kinds: dict[str, Any], tmp_path: Path) -> None:
    kind, changes = kinds["bert"]
    spec = find_spec(llmplug_bert, kind)
    folder = make_encoder(kind, changes, tmp_path)
    check_model(spec, folder)

    def build(context: BuildContext) -> Any:
        model = spec.build(context)
        encode = model.encode
        object.__setattr__(
            model, "encode", lambda batch: encode(replace(batch, positions_T=batch.positions_T + 1))
        )
        return model

    with pytest.raises(AssertionError, match="a text of 17 tokens, packed with others, is read"):
        check_model(replace(spec, build=build), folder)
