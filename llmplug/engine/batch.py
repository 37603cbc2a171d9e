"""A schedule as tensors.

Legend: S sequences in this step, T packed tokens, M pages of the longest sequence. Decodes come
first, then chunks of prompts; within each kind in the order of the schedule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from llmplug.ops import AttentionBatch

if TYPE_CHECKING:
    from llmplug.engine.scheduler import Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What the model's forward pass gets."""

    token_ids_T: torch.Tensor  # int64
    positions_T: torch.Tensor  # int64, in the token's own sequence
    attention: AttentionBatch


def make_batch(schedule: Schedule, page_size: int, device: torch.device) -> Batch:
    """Pack a step's tokens; the schedule has at least one."""
    work = list(schedule)
    counts = [count for _, count in work]
    ends = [sequence.num_computed + count for sequence, count in work]
    token_ids = [
        token_id
        for (sequence, count), end in zip(work, ends, strict=True)
        for token_id in sequence.token_ids[end - count : end]
    ]
    counts_S, ends_S = np.array(counts), np.array(ends)
    starts_S1 = np.concatenate(([0], np.cumsum(counts_S)))
    rows_T = np.repeat(np.arange(len(work)), counts_S)
    positions_T = np.arange(starts_S1[-1]) + (ends_S - starts_S1[1:])[rows_T]
    block_table_SM = np.full((len(work), max(len(s.pages) for s, _ in work)), -1, dtype=np.int32)
    for row, (sequence, _) in enumerate(work):
        block_table_SM[row, : len(sequence.pages)] = sequence.pages
    pages_T = block_table_SM[rows_T, positions_T // page_size].astype(np.int64)
    attention = AttentionBatch(
        num_decodes=len(schedule.decodes),
        query_lens=tuple(counts),
        cached_lens=tuple(ends),
        query_starts_S1=torch.from_numpy(starts_S1.astype(np.int32)).to(device),
        cached_lens_S=torch.from_numpy(ends_S.astype(np.int32)).to(device),
        block_table_SM=torch.from_numpy(block_table_SM).to(device),
        slots_T=torch.from_numpy(pages_T * page_size + positions_T % page_size).to(device),
    )
    return Batch(
        token_ids_T=torch.tensor(token_ids, dtype=torch.int64, device=device),
        positions_T=torch.from_numpy(positions_T).to(device),
        attention=attention,
    )
