"""Run a model as an engine does, in steps over pages of its own.

Legend: S sequences in this step, T packed tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import torch

from llmplug.engine.caches import allocate_caches
from llmplug.engine.loading import load_weights
from llmplug.engine.split import split_shape
from llmplug.ops import REFERENCES, AttentionBatch, KernelTable
from llmplug.ops.split_kernels import split_kernels
from llmplug.ops.table import make_reference_table
from llmplug.specs import BuildContext

if TYPE_CHECKING:
    from llmplug.ops.collective import Collective
    from llmplug.specs import Checkpoint, Model, ModelShape, ModelSpec

CPU = torch.device("cpu")
PAGE_SIZE = 4  # tokens; small, so that short texts have pages of several kinds


@dataclass(frozen=True, slots=True)
class BuiltModel:
    """A model with what it was built of."""

    model: Any  # a Model, or an Encoder or Classifier
    shape: ModelShape
    ops: KernelTable
    dtype: torch.dtype


def build_model(
    spec: ModelSpec,
    checkpoint: Checkpoint,
    *,
    ops: KernelTable | None = None,
    dtype: torch.dtype = torch.float32,
    context_length: int | None = None,
    collective: Collective | None = None,
) -> BuiltModel:
    """Load a checkpoint's weights and build its model, or one rank's part, as an engine does."""
    ops = ops or make_reference_table(REFERENCES)
    shape = spec.describe(checkpoint.config)
    shape = replace(shape, context_length=context_length or shape.context_length)
    rank, num_ranks = 0, 1
    if collective is not None:
        rank, num_ranks = collective.rank, collective.num_ranks
        ops, shape = split_kernels(ops, collective), split_shape(shape, num_ranks)
    weights = load_weights(
        checkpoint,
        spec.weights(checkpoint.config),
        spec.ignored,
        shape.num_layers,
        ops,
        device=CPU,
        dtype=dtype,
        progress=lambda stage, done, total: None,
        rank=rank,
        num_ranks=num_ranks,
    )
    context = BuildContext(
        config=checkpoint.config,
        shape=shape,
        weights=weights,
        ops=ops,
        device=CPU,
        dtype=dtype,
        num_ranks=num_ranks,
    )
    return BuiltModel(spec.build(context), shape, ops, dtype)


class StepRunner:
    """Feeds sequences through a model in steps, each with pages of its own, in a random order.

    Attributes:
        num_cached: tokens of each sequence so far.
    """

    def __init__(
        self, built: BuiltModel, num_sequences: int, cache_dtype: torch.dtype | None = None
    ) -> None:
        self._model: Model = built.model
        pages_each = -(-built.shape.context_length // PAGE_SIZE)
        num_pages = pages_each * num_sequences
        self._caches = allocate_caches(
            built.ops,
            built.shape.layers,
            num_pages,
            PAGE_SIZE,
            device=CPU,
            dtype=cache_dtype or built.dtype,
        )
        order = torch.randperm(num_pages, generator=torch.Generator().manual_seed(0))
        self._table_SM = order.int().view(num_sequences, pages_each)
        self.num_cached = [0] * num_sequences

    def share_prefix(self, source: int, target: int, num_tokens: int) -> int:
        """Give a new sequence the full pages of another's first tokens, as a prefix cache does.

        Returns:
            How many tokens it has now: a multiple of the page size.
        """
        num_pages = num_tokens // PAGE_SIZE
        self._table_SM[target, :num_pages] = self._table_SM[source, :num_pages]
        self.num_cached[target] = num_pages * PAGE_SIZE
        return self.num_cached[target]

    @torch.inference_mode()
    def step(self, chunks: Mapping[int, Sequence[int]]) -> dict[int, torch.Tensor]:
        """Run new tokens of some sequences, decodes first; return logits_TV of each."""
        sequences = sorted(chunks, key=lambda s: len(chunks[s]) > 1)
        positions, slots = [], []
        for s in sequences:
            new = torch.arange(self.num_cached[s], self.num_cached[s] + len(chunks[s]))
            self.num_cached[s] += len(chunks[s])
            positions.append(new)
            pages = self._table_SM[s].long()[new // PAGE_SIZE]
            slots.append(pages * PAGE_SIZE + new % PAGE_SIZE)
        query_lens = tuple(len(chunks[s]) for s in sequences)
        cached_lens = tuple(self.num_cached[s] for s in sequences)
        batch = AttentionBatch(
            num_decodes=sum(n == 1 for n in query_lens),
            query_lens=query_lens,
            cached_lens=cached_lens,
            query_starts_S1=torch.tensor([0, *query_lens]).cumsum(0).int(),
            cached_lens_S=torch.tensor(cached_lens, dtype=torch.int32),
            block_table_SM=self._table_SM[sequences],
            slots_T=torch.cat(slots),
        )
        ids_T = torch.tensor([token for s in sequences for token in chunks[s]])
        hidden_TD = self._model.forward(ids_T, torch.cat(positions), self._caches, batch)
        logits_TV = self._model.compute_logits(hidden_TD)
        bounds = pairwise(accumulate((0, *query_lens)))
        return {s: logits_TV[a:b] for s, (a, b) in zip(sequences, bounds, strict=True)}
