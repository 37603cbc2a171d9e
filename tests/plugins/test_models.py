"""The model plugins: their logits equal transformers' on the same random weights.

Legend: T packed tokens, V vocabulary.
"""

from __future__ import annotations

import json
from dataclasses import replace
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

from llmplug import BuildContext, Checkpoint, CheckpointError, Model, ModelShape, ModelSpec
from llmplug.engine.loading import load_weights
from llmplug.ops import REFERENCES, AttentionBatch, KVCache, choose_kernels, load_kernels

CPU = torch.device("cpu")
PAGE_SIZE = 4
# The same float32 sums in another order: logits are near 5, so this is a few dozen ulps.
TOLERANCE = 2e-5
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


def find_spec(architecture: str) -> ModelSpec:
    for point in entry_points(group="llmplug"):
        if point.name in FAMILIES:
            for spec in point.load().llmplug_models():
                if architecture in spec.architectures:
                    return spec
    raise LookupError(architecture)


def reference_ops() -> Any:
    return load_kernels(REFERENCES, [], choose_kernels(REFERENCES, [], "cpu", "float32"))


class Runner:
    """Feeds sequences through a model in steps, each with pages of its own."""

    def __init__(self, model: Model, shape: ModelShape, ops: Any, num_sequences: int) -> None:
        self.model, self.num_sequences = model, num_sequences
        self.pages_each = -(-shape.context_length // PAGE_SIZE)
        num_pages = self.pages_each * num_sequences
        self.caches: list[KVCache] = [
            ops.attention.allocate(
                num_pages,
                PAGE_SIZE,
                layer.num_kv_heads,
                layer.head_width,
                device=CPU,
                dtype=torch.float32,
            )
            for layer in shape.layers
        ]
        order = torch.randperm(num_pages, generator=torch.Generator().manual_seed(0))
        self.tables = order.int().view(num_sequences, self.pages_each)
        self.cached = [0] * num_sequences

    @torch.inference_mode()
    def step(self, chunks: dict[int, list[int]]) -> dict[int, torch.Tensor]:
        """Run new tokens of some sequences, decodes first; logits_TV of each."""
        sequences = sorted(chunks, key=lambda s: len(chunks[s]) > 1)
        positions, slots = [], []
        for s in sequences:
            new = torch.arange(self.cached[s], self.cached[s] + len(chunks[s]))
            self.cached[s] += len(chunks[s])
            positions.append(new)
            slots.append(self.tables[s].long()[new // PAGE_SIZE] * PAGE_SIZE + new % PAGE_SIZE)
        query_lens = tuple(len(chunks[s]) for s in sequences)
        cached_lens = tuple(self.cached[s] for s in sequences)
        batch = AttentionBatch(
            num_decodes=sum(n == 1 for n in query_lens),
            query_lens=query_lens,
            cached_lens=cached_lens,
            query_starts_S1=torch.tensor([0, *query_lens]).cumsum(0).int(),
            cached_lens_S=torch.tensor(cached_lens, dtype=torch.int32),
            block_table_SM=self.tables[sequences],
            slots_T=torch.cat(slots),
        )
        ids_T = torch.tensor([token for s in sequences for token in chunks[s]])
        hidden_TD = self.model.forward(ids_T, torch.cat(positions), self.caches, batch)
        logits = self.model.compute_logits(hidden_TD).split(query_lens)
        return dict(zip(sequences, logits, strict=True))


def build(
    source: Path | Checkpoint,
    dtype: torch.dtype = torch.float32,
    ops: Any = None,
    context_length: int | None = None,
) -> tuple[Model, ModelShape, Any]:
    checkpoint = open_checkpoint(source) if isinstance(source, Path) else source
    spec = find_spec(checkpoint.config["architectures"][0])
    ops = ops or reference_ops()
    shape = spec.describe(checkpoint.config)
    shape = replace(shape, context_length=context_length or shape.context_length)
    weights = load_weights(
        checkpoint,
        spec.weights(checkpoint.config),
        spec.ignored,
        shape.num_layers,
        ops,
        device=CPU,
        dtype=dtype,
        progress=lambda stage, done, total: None,
    )
    context = BuildContext(
        config=checkpoint.config, shape=shape, weights=weights, ops=ops, device=CPU, dtype=dtype
    )
    return spec.build(context), shape, ops


def random_ids(length: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(263, (length,), generator=generator).tolist()


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(request.param, tmp_path_factory.mktemp(request.param))


def test_prefill_equals_transformers(variant: Path) -> None:
    runner = Runner(*build(variant), num_sequences=1)
    ids = random_ids(90, seed=1)
    expected = reference_logits(load_reference(variant), ids)
    torch.testing.assert_close(runner.step({0: ids})[0], expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("chunk", [1, 5, 16])
def test_chunks_and_decode_equal_transformers(variant: Path, chunk: int) -> None:
    runner = Runner(*build(variant), num_sequences=1)
    ids = random_ids(37, seed=2)
    got = [runner.step({0: ids[i : i + chunk]})[0] for i in range(0, len(ids), chunk)]
    expected = reference_logits(load_reference(variant), ids)
    torch.testing.assert_close(torch.cat(got), expected, rtol=0, atol=TOLERANCE)


def test_mixed_batches_equal_transformers(variant: Path) -> None:
    """Decodes and prefill chunks of three sequences in the same steps."""
    runner = Runner(*build(variant), num_sequences=3)
    ids = [random_ids(length, seed=length) for length in (30, 13, 51)]
    # Tokens of each sequence in each step: 0 decodes from step 2, 2 starts late.
    plan = [(25, 6, 0), (1, 6, 20), (1, 1, 20), (1, 0, 11), (2, 0, 0)]
    got: list[list[torch.Tensor]] = [[], [], []]
    for lens in plan:
        chunks = {
            s: ids[s][runner.cached[s] : runner.cached[s] + n] for s, n in enumerate(lens) if n
        }
        for s, logits_TV in runner.step(chunks).items():
            got[s].append(logits_TV)
    reference = load_reference(variant)
    for s, sequence in enumerate(ids):
        torch.testing.assert_close(
            torch.cat(got[s]), reference_logits(reference, sequence), rtol=0, atol=TOLERANCE
        )


def test_a_row_does_not_depend_on_its_neighbours(variant: Path) -> None:
    """Greedy decoding alone and in a batch: the same tokens, logits equal to rounding."""
    built = build(variant)
    alone, together = Runner(*built, num_sequences=1), Runner(*built, num_sequences=3)
    prompts = [random_ids(length, seed=50 + length) for length in (11, 4, 23)]
    chunks = {0: prompts[0]}
    batch = dict(enumerate(prompts))
    for _ in range(12):
        single, several = alone.step(chunks), together.step(batch)
        torch.testing.assert_close(single[0][-1], several[0][-1], rtol=0, atol=TOLERANCE)
        batch = {s: [int(logits_TV[-1].argmax())] for s, logits_TV in several.items()}
        chunks = {0: [int(single[0][-1].argmax())]}
        assert chunks[0] == batch[0]


def test_bfloat16_stays_near_float32(variant: Path) -> None:
    """Rounding each activation to 8 bits moves logits by a percent or so of their spread."""
    model, shape, ops = build(variant, torch.bfloat16)
    ids = random_ids(40, seed=3)
    got = Runner(model, shape, ops, num_sequences=1).step({0: ids})[0]
    expected = reference_logits(load_reference(variant), ids)
    assert got.dtype == torch.float32
    error = (got - expected).square().mean().sqrt() / expected.std()
    assert error < 0.05


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
    runner = Runner(*build(variant, ops=ops), num_sequences=1)
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
    new = Runner(*build(folder), num_sequences=1).step({0: ids})[0]
    config = json.loads((folder / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    rope["type"] = rope.pop("rope_type")
    (folder / "config.json").write_text(json.dumps({**config, "rope_scaling": rope}))
    assert torch.equal(Runner(*build(folder), num_sequences=1).step({0: ids})[0], new)


def test_a_shorter_context_gives_the_same_logits(variant: Path) -> None:
    """The table of angles is made for the context that is served, the angles do not change."""
    checkpoint = open_checkpoint(variant)
    spec = find_spec(checkpoint.config["architectures"][0])
    shape = spec.describe(checkpoint.config)
    short = Runner(*build(variant, context_length=64), num_sequences=1)
    ids = random_ids(30, seed=8)
    assert shape.context_length == 256
    assert torch.equal(
        short.step({0: ids})[0], Runner(*build(variant), num_sequences=1).step({0: ids})[0]
    )


def test_published_model_equals_transformers(smollm2_gguf: Path) -> None:
    """SmolLM2 from its GGUF, dequantised: logits, and what greedy decoding says."""
    from tokenizers import Tokenizer

    from llmplug_gguf import llmplug_model_loaders

    (loader,) = llmplug_model_loaders()
    checkpoint = loader.open(smollm2_gguf)
    reference = load_reference_of(checkpoint)

    tokenizer = Tokenizer.from_str(checkpoint.tokenizer.json)
    ids = tokenizer.encode("The capital of France is", add_special_tokens=False).ids
    runner = Runner(*build(checkpoint, context_length=128), num_sequences=1)
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
