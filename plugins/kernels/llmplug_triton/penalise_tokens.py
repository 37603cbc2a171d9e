"""The op `penalise_tokens`: penalties by a sparse list, a program a block of its entries.

Legend: S rows (sequences), V vocabulary, E entries: tokens of rows, each once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from llmplug import KernelInputError

_BLOCK = 256  # entries of a program; each is a scattered read, so few a thread


@triton.jit
def _penalise_kernel(
    logits: tl.tensor,
    rows: tl.tensor,
    ids: tl.tensor,
    counts: tl.tensor,
    penalties: tl.tensor,  # (S, 3)
    stride: tl.tensor,
    num_rows: tl.tensor,
    num_entries: tl.tensor,
    NUM_TOKENS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    entry_E = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    is_there_E = entry_E < num_entries
    row_E = tl.load(rows + entry_E, mask=is_there_E, other=-1)
    id_E = tl.load(ids + entry_E, mask=is_there_E, other=-1)
    count_E = tl.load(counts + entry_E, mask=is_there_E, other=0)
    is_there_E &= (row_E >= 0) & (row_E < num_rows) & (id_E >= 0) & (id_E < NUM_TOKENS)
    repetition_E = tl.load(penalties + row_E * 3, mask=is_there_E, other=1.0)
    presence_E = tl.load(penalties + row_E * 3 + 1, mask=is_there_E, other=0.0)
    frequency_E = tl.load(penalties + row_E * 3 + 2, mask=is_there_E, other=0.0)
    place_E = logits + row_E * stride + id_E
    x_E = tl.load(place_E, mask=is_there_E, other=0.0)
    x_E = tl.where(x_E > 0, x_E / repetition_E, x_E * repetition_E)
    x_E = x_E - tl.where(count_E > 0, presence_E, 0.0) - frequency_E * count_E.to(tl.float32)
    tl.store(place_E, x_E, mask=is_there_E)


def penalise_tokens(
    logits_SV: torch.Tensor,
    rows_E: torch.Tensor,
    ids_E: torch.Tensor,
    counts_E: torch.Tensor,
    penalties_S3: torch.Tensor,
) -> torch.Tensor:
    """Make seen tokens less probable; twin of `llmplug.ops.penalise_tokens`.

    Raises:
        KernelInputError: logits are no float32 matrix of dense rows, entries are not int64 and as
            many of each, or penalties are not three float32 a row.
    """
    if logits_SV.dim() != 2 or logits_SV.dtype is not torch.float32 or logits_SV.stride(1) != 1:
        raise KernelInputError(
            f"logits are a float32 matrix of dense rows, not {logits_SV.dtype} "
            f"{tuple(logits_SV.shape)}"
        )
    entries = (rows_E, ids_E, counts_E)
    if any(x.dtype is not torch.int64 or x.shape != rows_E.shape or x.dim() != 1 for x in entries):
        raise KernelInputError("rows, ids and counts are vectors of int64 of one length")
    num_rows, size = logits_SV.shape
    if penalties_S3.shape != (num_rows, 3) or penalties_S3.dtype is not torch.float32:
        raise KernelInputError(f"penalties are float32 ({num_rows}, 3)")
    num_entries = rows_E.numel()
    if num_entries > 0 and logits_SV.numel() > 0:
        _penalise_kernel[(triton.cdiv(num_entries, _BLOCK),)](
            logits_SV, *(x.contiguous() for x in entries), penalties_S3.contiguous(),
            logits_SV.stride(0), num_rows, num_entries, NUM_TOKENS=size, BLOCK=_BLOCK,
        )  # fmt: skip
    return logits_SV
