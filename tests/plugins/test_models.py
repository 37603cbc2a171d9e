"""The model plugins: their logits equal transformers' on the same random weights.

Legend: T packed tokens, V vocabulary.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import VARIANTS, load_reference, make_checkpoint, open_checkpoint, reference_logits

from llmplug import BuildContext, Model, ModelShape, ModelSpec
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
    folder: Path, dtype: torch.dtype = torch.float32, ops: Any = None
) -> tuple[Model, ModelShape, Any]:
    checkpoint = open_checkpoint(folder)
    spec = find_spec(checkpoint.config["architectures"][0])
    ops = ops or reference_ops()
    shape = spec.describe(checkpoint.config)
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
