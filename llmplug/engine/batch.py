"""A schedule as tensors.

Legend: S sequences in this step, T packed tokens, M pages of the longest sequence. Decodes come
first, then chunks of prompts; within each kind in the order of the schedule.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from llmplug.engine.steps import HostStep
from llmplug.ops import AttentionBatch

if TYPE_CHECKING:
    from llmplug.engine.scheduler import Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What the model's forward pass gets."""

    token_ids_T: torch.Tensor  # int64
    positions_T: torch.Tensor  # int64, in the token's own sequence
    attention: AttentionBatch


def pack_step(schedule: Schedule) -> HostStep:
    """Write a step down; the schedule has at least one token."""
    counts, ends, token_ids = [], [], array("q")
    pages, num_pages = array("i"), []  # of all sequences, one after the other
    for sequence, count in schedule:
        end = sequence.num_computed + count
        counts.append(count)
        ends.append(end)
        token_ids.extend(sequence.token_ids[end - count : end])
        pages += sequence.pages
        num_pages.append(len(sequence.pages))
    return HostStep(
        num_decodes=len(schedule.decodes),
        query_lens=tuple(counts),
        cached_lens=tuple(ends),
        num_pages=tuple(num_pages),
        token_ids=token_ids.tobytes(),
        pages=pages.tobytes(),
    )


def make_batch(step: HostStep, page_size: int, device: torch.device) -> Batch:
    """Lay a step out in tensors."""
    counts, num_pages = step.query_lens, step.num_pages
    counts_S, ends_S = np.array(counts), np.array(step.cached_lens)
    num_pages_S = np.array(num_pages)
    starts_S1 = np.concatenate(([0], np.cumsum(counts_S)))
    rows_T = np.repeat(np.arange(len(counts)), counts_S)
    positions_T = np.arange(starts_S1[-1]) + (ends_S - starts_S1[1:])[rows_T]
    block_table_SM = np.full((len(counts), max(num_pages)), -1, dtype=np.int32)
    block_table_SM[np.arange(max(num_pages)) < num_pages_S[:, None]] = np.frombuffer(
        step.pages, np.int32
    )
    pages_T = block_table_SM[rows_T, positions_T // page_size].astype(np.int64)
    attention = AttentionBatch(
        num_decodes=step.num_decodes,
        query_lens=counts,
        cached_lens=step.cached_lens,
        query_starts_S1=torch.from_numpy(starts_S1.astype(np.int32)).to(device),
        cached_lens_S=torch.from_numpy(ends_S.astype(np.int32)).to(device),
        block_table_SM=torch.from_numpy(block_table_SM).to(device),
        slots_T=torch.from_numpy(pages_T * page_size + positions_T % page_size).to(device),
    )
    return Batch(
        token_ids_T=torch.from_numpy(np.frombuffer(step.token_ids, np.int64).copy()).to(device),
        positions_T=torch.from_numpy(positions_T).to(device),
        attention=attention,
    )
