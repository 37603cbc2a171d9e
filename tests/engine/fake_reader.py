"""A reader whose vectors tell which tokens they were made of, and the engine around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from llmplug.engine.pool_limits import PoolLimits
from llmplug.engine.pooling import PoolingEngine
from llmplug.ops import KernelTable, TextBatch, pool_texts
from llmplug.pooling import Pooling

VOCAB_SIZE = 97
WIDTH = 4


class FakeReader:
    """The hidden state of a token: its id, its position, its type, and 1."""

    def __init__(self) -> None:
        self.batches: list[list[list[int]]] = []  # the texts of each step
        self.failing_ids: set[int] = set()  # a step that has one of these raises

    def encode(self, batch: TextBatch) -> torch.Tensor:
        ids = batch.token_ids_T.tolist()
        bounds = zip(batch.starts[:-1], batch.starts[1:], strict=True)
        self.batches.append([ids[start:end] for start, end in bounds])
        if self.failing_ids.intersection(ids):
            raise RuntimeError("this token was not expected")
        types_T = batch.type_ids_T
        if types_T is None:
            types_T = torch.zeros_like(batch.token_ids_T)
        ones_T = torch.ones_like(batch.token_ids_T)
        return torch.stack([batch.token_ids_T, batch.positions_T, types_T, ones_T], dim=-1).float()

    def classify(self, pooled_ND: torch.Tensor) -> torch.Tensor:
        return pooled_ND[:, :2] * 2


def expected_mean(token_ids: Sequence[int]) -> list[float]:
    """The mean of a text's hidden states, all of the first type."""
    count = len(token_ids)
    return [sum(token_ids) / count, (count - 1) / 2, 0.0, 1.0]


def make_pooling_engine(
    reader: FakeReader | None = None, *, task: Any = "embed", **fields: Any
) -> PoolingEngine:
    settings: dict[str, Any] = {"max_batch_tokens": 16, "max_texts": 4, **fields}
    return PoolingEngine(
        reader or FakeReader(),
        KernelTable({"pool_texts": pool_texts}),
        Pooling(kind="mean", is_normalised=False),
        PoolLimits(task=task, vocab_size=VOCAB_SIZE, max_tokens=32, width=WIDTH, token_width=WIDTH),
        torch.device("cpu"),
        **settings,
    )
