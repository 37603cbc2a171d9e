"""The model plugins: their logits equal transformers' on the same random weights.

Legend: T packed tokens, V vocabulary.
"""

from __future__ import annotations

import json
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import (
    VARIANTS,
    load_reference,
    load_reference_of,
    make_checkpoint,
    open_checkpoint,
    reference_logits,
)

from llmplug import Checkpoint, CheckpointError, ModelSpec
from llmplug.ops import REFERENCES, KernelTable, choose_kernels, load_kernels
from llmplug.testing import check_model
from llmplug.testing.models import TOLERANCE
from llmplug.testing.step_runner import BuiltModel, StepRunner, build_model

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


def find_spec(architecture: str) -> ModelSpec:
    for point in entry_points(group="llmplug"):
        if point.name in FAMILIES:
            for spec in point.load().llmplug_models():
                if architecture in spec.architectures:
                    return spec
    raise LookupError(architecture)


def build(
    source: Path | Checkpoint, ops: KernelTable | None = None, context_length: int | None = None
) -> BuiltModel:
    checkpoint = open_checkpoint(source) if isinstance(source, Path) else source
    spec = find_spec(checkpoint.config["architectures"][0])
    return build_model(spec, checkpoint, ops=ops, context_length=context_length)


def random_ids(length: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(263, (length,), generator=generator).tolist()


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(request.param, tmp_path_factory.mktemp(request.param))


def test_what_holds_for_every_model(variant: Path) -> None:
    checkpoint = open_checkpoint(variant)
    check_model(find_spec(checkpoint.config["architectures"][0]), checkpoint)


def test_installed_kernels_serve_the_models(variant: Path) -> None:
    """What the CPU would really run, against transformers."""
    specs = [
        (spec, point.name)
        for point in sorted(entry_points(group="llmplug"))
        if hasattr(plugin := point.load(), "llmplug_kernels")
        for spec in plugin.llmplug_kernels()
    ]
    choices = choose_kernels(REFERENCES, specs, "cpu", "float32")
    ops = load_kernels(REFERENCES, specs, choices)
    runner = StepRunner(build(variant, ops=ops), 1)
    ids = random_ids(29, seed=4)
    got = [runner.step({0: chunk})[0] for chunk in (ids[:20], ids[20:28], ids[28:])]
    expected = reference_logits(load_reference(variant), ids)
    torch.testing.assert_close(torch.cat(got), expected, rtol=0, atol=TOLERANCE)


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("llama", {"hidden_act": "gelu"}, "hidden_act"),
    ("llama", {"pretraining_tp": 2}, "pretraining_tp"),
    ("llama", {"quantization_config": {"quant_method": "awq"}}, "quantization_config"),
    ("llama", {"num_key_value_heads": 4}, "key/value heads"),
    ("llama", {"num_hidden_layers": None}, "num_hidden_layers is missing"),
    ("llama", {"vocab_size": "many"}, "vocab_size"),
    ("llama", {"hidden_size": True}, "hidden_size"),
    ("llama", {"rms_norm_eps": float("nan")}, "rms_norm_eps"),
    ("llama", {"tie_word_embeddings": 1}, "tie_word_embeddings"),
    ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "dynamic"),
    ("llama", {"rope_parameters": {"rope_type": "longrope"}}, "longrope"),
    ("llama", {"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "all layers"),
    ("mistral", {"layer_types": ["full_attention"]}, "layer_types"),
    ("mistral", {"sliding_window": 0}, "sliding_window"),
    ("qwen2", {"use_sliding_window": True, "layer_types": ["full_attention"]}, "layer_types"),
    ("qwen2", {"use_sliding_window": True, "layer_types": ["chunked"] * 2}, "layer_types"),
    ("qwen3", {"layer_types": ["sliding_attention"] * 2}, "layer_types"),
    ("qwen3", {"hidden_act": "relu"}, "hidden_act"),
]


@pytest.mark.parametrize(("name", "changes", "message"), REFUSED)
def test_settings_that_change_the_result_are_refused(
    name: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    config = open_checkpoint(make_checkpoint(name, tmp_path)).config
    spec = find_spec(config["architectures"][0])
    spec.describe(config)
    with pytest.raises(CheckpointError, match=message):
        spec.describe({**config, **changes})


def test_older_rope_fields_are_read(tmp_path: Path) -> None:
    """Configs written before `rope_parameters` give the same logits as those after."""
    folder = make_checkpoint("llama-rope-llama3", tmp_path)
    ids = random_ids(60, seed=6)
    new = StepRunner(build(folder), 1).step({0: ids})[0]
    config = json.loads((folder / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    rope["type"] = rope.pop("rope_type")
    (folder / "config.json").write_text(json.dumps({**config, "rope_scaling": rope}))
    assert torch.equal(StepRunner(build(folder), 1).step({0: ids})[0], new)


def test_a_shorter_context_gives_the_same_logits(variant: Path) -> None:
    """The table of angles is made for the context that is served, the angles do not change."""
    checkpoint = open_checkpoint(variant)
    spec = find_spec(checkpoint.config["architectures"][0])
    shape = spec.describe(checkpoint.config)
    short = StepRunner(build(variant, context_length=64), 1)
    ids = random_ids(30, seed=8)
    assert shape.context_length == 256
    assert torch.equal(short.step({0: ids})[0], StepRunner(build(variant), 1).step({0: ids})[0])


def test_published_model_equals_transformers(smollm2_gguf: Path) -> None:
    """SmolLM2 from its GGUF, dequantised: logits, and what greedy decoding says."""
    from tokenizers import Tokenizer

    from llmplug_gguf import llmplug_model_loaders

    (loader,) = llmplug_model_loaders()
    checkpoint = loader.open(smollm2_gguf)
    reference = load_reference_of(checkpoint)

    tokenizer = Tokenizer.from_str(checkpoint.tokenizer.json)
    ids = tokenizer.encode("The capital of France is", add_special_tokens=False).ids
    runner = StepRunner(build(checkpoint, context_length=128), 1)
    logits_TV = runner.step({0: ids})[0]
    # 30 layers deep and logits near 20: a float32 sum in another order is worth about 1e-4.
    torch.testing.assert_close(logits_TV, reference_logits(reference, ids), rtol=0, atol=1e-3)

    generated: list[int] = []
    for _ in range(16):
        generated.append(int(logits_TV[-1].argmax()))
        logits_TV = runner.step({0: generated[-1:]})[0]
    with torch.inference_mode():
        expected = reference.generate(
            torch.tensor([ids]), max_new_tokens=16, do_sample=False, eos_token_id=None
        )
    assert generated == expected[0, len(ids) :].tolist()
    assert "Paris" in tokenizer.decode(generated)
