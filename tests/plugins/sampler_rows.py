"""Rows, logits and a test of chance, for the samplers' tests."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from llmplug import SamplerRow, SamplerSpec
from llmplug.ops import REFERENCES
from llmplug.ops.table import make_reference_table

CPU = torch.device("cpu")
OPS = make_reference_table(REFERENCES)
INF = math.inf


def make_row(
    spec: SamplerSpec, prompt: Sequence[int] = (), output: Sequence[int] = (), seed: int = 0,
    position: int | None = None, state: Any = None, **params: Any,
) -> SamplerRow:  # fmt: skip
    place = len(prompt) + len(output) if position is None else position
    return SamplerRow(spec.params(**params), prompt, output, seed, place, state)


def make_logits(rows: int, scale: float = 3.0, vocab_size: int = 501) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows + vocab_size)
    return torch.randn(rows, vocab_size, generator=generator) * scale


def apply(spec: SamplerSpec, logits_RV: torch.Tensor, rows: Sequence[SamplerRow]) -> torch.Tensor:
    edited = logits_RV.clone()
    spec.make(logits_RV.shape[1], CPU, OPS).apply(edited, rows)
    return edited


def kept_ids(logits_V: torch.Tensor) -> list[int]:
    return [i for i, logit in enumerate(logits_V.tolist()) if logit > -INF]


def is_plausible(counts: Counter[int], probs: Sequence[float]) -> bool:
    """Whether Pearson's statistic is within four deviations; rare tokens are one class."""
    total = counts.total()
    classes, rest = [], [0.0, 0.0]
    for token_id, prob in enumerate(probs):
        expected = prob * total
        if expected < 5:
            rest = [rest[0] + counts[token_id], rest[1] + expected]
        else:
            classes.append((counts[token_id], expected))
    if rest[1] > 1:
        classes.append((rest[0], rest[1]))
    elif rest[0] > 5:
        return False
    statistic = sum((found - expected) ** 2 / expected for found, expected in classes)
    freedom = max(len(classes) - 1, 1)
    return statistic < freedom + 4 * math.sqrt(2 * freedom)


def check_batch_independence(spec: SamplerSpec, logits: torch.Tensor, rows: list) -> None:
    """A row's logits are edited alike alone, in a batch and backwards; and twice."""
    together = apply(spec, logits, rows)
    for i, row in enumerate(rows):
        assert torch.equal(apply(spec, logits[i : i + 1], [row])[0], together[i])
    assert torch.equal(apply(spec, logits.flip(0), rows[::-1]).flip(0), together)
    assert torch.equal(apply(spec, logits, rows), together)
