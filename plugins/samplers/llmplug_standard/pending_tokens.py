"""Counts of tokens, with those that the device has chosen and the host does not know yet.

Legend: R rows, E entries: tokens of rows, each once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from llmplug.ops import send_to_device

if TYPE_CHECKING:
    from collections.abc import Sequence

Entries = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def count_tokens(
    entries: Sequence[tuple[int, int, int]], pending_R: torch.Tensor | None, device: torch.device
) -> Entries:
    """Send entries to the device, and count each row's pending token there.

    Args:
        entries: (row, token id, how often it was generated), a pair of row and id once.
        pending_R: int64; -1: none.

    Returns:
        rows_E, ids_E and counts_E, int64. What belongs to no row has the row -1.
    """
    flat = [number for entry in entries for number in entry]
    table_E3 = send_to_device(flat, device, torch.int64).view(-1, 3)
    rows_E, ids_E, counts_E = table_E3.T.contiguous()
    if pending_R is None:
        return rows_E, ids_E, counts_E
    is_pending_E = (ids_E == pending_R[rows_E]).long()
    # No word to the host: a row whose token has an entry gets one more, which belongs to nobody.
    num_known_R = torch.zeros_like(pending_R).index_add_(0, rows_E, is_pending_E)
    row_R = torch.arange(len(pending_R), device=device)
    is_new_R = (num_known_R == 0) & (pending_R >= 0)
    return (
        torch.cat((rows_E, torch.where(is_new_R, row_R, -1))),
        torch.cat((ids_E, pending_R)),
        torch.cat((counts_E + is_pending_E, torch.ones_like(pending_R))),
    )


def drop_padding(entries: Entries) -> Entries:
    """Leave out what belongs to no row; waits for the device."""
    is_there_E = entries[0] >= 0
    rows_E, ids_E, counts_E = (x[is_there_E] for x in entries)
    return rows_E, ids_E, counts_E
