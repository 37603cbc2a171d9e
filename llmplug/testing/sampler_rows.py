"""Rows and logits to try samplers on, and a vocabulary for those that read one.

Legend: R rows, V vocabulary.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from llmplug.grammar import Vocabulary
from llmplug.ops import REFERENCES, KernelTable
from llmplug.ops.table import make_reference_table
from llmplug.specs import SamplerRow, SamplerSpec

CPU = torch.device("cpu")
OPS = make_reference_table(REFERENCES)
INF = math.inf


def make_vocabulary(vocab_size: int) -> Vocabulary:
    """Return a vocabulary of words and, every 16th token, a line break."""
    texts = [b"\n" if i % 16 == 15 else f" word{i}".encode() for i in range(vocab_size)]
    return Vocabulary(
        token_bytes=texts, control_ids={}, end_ids=frozenset(), encode=lambda text: []
    )


def make_sampler(
    spec: SamplerSpec,
    vocab_size: int,
    *,
    device: torch.device = CPU,
    ops: KernelTable = OPS,
    vocabulary: Vocabulary | None = None,
) -> Any:
    """Make a sampler as an engine does."""
    if spec.reads_vocabulary:
        return spec.make(vocab_size, device, ops, lambda: vocabulary or make_vocabulary(vocab_size))
    return spec.make(vocab_size, device, ops)


def make_row(
    spec: SamplerSpec, prompt: Sequence[int] = (), output: Sequence[int] = (), seed: int = 0,
    position: int | None = None, state: Any = None, **params: Any,
) -> SamplerRow:  # fmt: skip
    """Return the row of a request with these parameters."""
    place = len(prompt) + len(output) if position is None else position
    return SamplerRow(spec.params(**params), prompt, output, seed, place, state)


def copy_rows(rows: Sequence[SamplerRow]) -> list[SamplerRow]:
    """Return rows that nothing has been kept for yet, with states of their own."""
    return [
        SamplerRow(
            row.params, row.prompt_ids, row.output_ids, row.seed, row.position,
            copy.deepcopy(row.state),
        )
        for row in rows
    ]  # fmt: skip


def make_rows(
    spec: SamplerSpec, params: Sequence[Mapping[str, Any]], vocab_size: int
) -> list[SamplerRow]:
    """Return rows in pairs, each setting at least once: one repeats its text, one is new."""
    generator = torch.Generator().manual_seed(vocab_size)
    rows = []
    for number in range(max(len(params), 5)):
        fields = params[number % len(params)]
        few = min(vocab_size, 24)
        ids = torch.randint(few, (60,), generator=generator).tolist()
        text = (*ids[:20], *ids[:20], *ids)
        rows.append(make_row(spec, text[:30], text[30:], seed=977 * number - 400, **fields))
        rows.append(make_row(spec, (few - 1,), (), seed=2**62 + number, **fields))
    return rows


def make_logits(num_rows: int, scale: float = 3.0, vocab_size: int = 501) -> torch.Tensor:
    """Return normal logits_RV, the same for the same size."""
    generator = torch.Generator().manual_seed(num_rows + vocab_size)
    return torch.randn(num_rows, vocab_size, generator=generator) * scale


def make_odd_logits(num_rows: int, vocab_size: int = 501) -> torch.Tensor:
    """Return logits_RV of every kind: peaked, flat, with ties, with most tokens forbidden."""
    logits_RV = make_logits(num_rows, vocab_size=vocab_size)
    logits_RV[1::5] *= 8
    logits_RV[2::5] = logits_RV[2::5].round()
    logits_RV[3::5, ::2] = -INF
    logits_RV[4::5, 3:-1] = -INF
    return logits_RV


def apply_sampler(
    spec: SamplerSpec, logits_RV: torch.Tensor, rows: Sequence[SamplerRow]
) -> torch.Tensor:
    """Return what a sampler of stage bias, scale or filter makes of logits."""
    edited_RV = logits_RV.clone()
    make_sampler(spec, logits_RV.shape[1]).apply(edited_RV, rows)
    return edited_RV


def kept_ids(logits_V: torch.Tensor) -> list[int]:
    """Return the tokens that are not forbidden."""
    return [i for i, logit in enumerate(logits_V.tolist()) if logit > -INF]
