"""The op `mask_tokens`: grammar masks for the rows of a list, a program a block of a row.

Legend: S rows (sequences), V vocabulary, R rows with a mask, W words of 32 tokens each.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from llmplug import KernelInputError

_BLOCK = 4096  # tokens of a program; not yet measured


@triton.jit
def _mask_kernel(
    logits: tl.tensor,
    rows: tl.tensor,
    allowed: tl.tensor,
    stride: tl.tensor,
    num_rows: tl.tensor,
    NUM_TOKENS: tl.constexpr,
    NUM_WORDS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    place = tl.program_id(0).to(tl.int64)  # the grid ends with the list
    row = tl.load(rows + place)
    token_V = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_there_V = (token_V < NUM_TOKENS) & (row >= 0) & (row < num_rows)
    word_V = tl.load(allowed + place * NUM_WORDS + token_V // 32, mask=is_there_V, other=0)
    is_forbidden_V = ((word_V >> (token_V % 32)) & 1) == 0
    out_V = tl.full((BLOCK,), float("-inf"), tl.float32)
    tl.store(logits + row * stride + token_V, out_V, mask=is_there_V & is_forbidden_V)


def mask_tokens(
    logits_SV: torch.Tensor, rows_R: torch.Tensor, allowed_RW: torch.Tensor
) -> torch.Tensor:
    """Forbid all tokens whose bit is not set; twin of `llmplug.ops.mask_tokens`.

    Raises:
        KernelInputError: logits are no float32 matrix of dense rows, rows are not int64, or masks
            are not int32 of as many rows with a bit a token.
    """
    if logits_SV.dim() != 2 or logits_SV.dtype is not torch.float32 or logits_SV.stride(1) != 1:
        raise KernelInputError(
            f"logits are a float32 matrix of dense rows, not {logits_SV.dtype} "
            f"{tuple(logits_SV.shape)}"
        )
    num_rows, size = logits_SV.shape
    shape = (rows_R.numel(), triton.cdiv(size, 32))
    if rows_R.dtype is not torch.int64 or allowed_RW.dtype is not torch.int32:
        raise KernelInputError("rows are int64 and masks int32")
    if rows_R.dim() != 1 or tuple(allowed_RW.shape) != shape:
        raise KernelInputError(f"masks of {tuple(allowed_RW.shape)}, where {shape} is needed")
    if logits_SV.numel() > 0 and rows_R.numel() > 0:
        _mask_kernel[(shape[0], triton.cdiv(size, _BLOCK))](
            logits_SV, rows_R.contiguous(), allowed_RW.contiguous(), logits_SV.stride(0), num_rows,
            NUM_TOKENS=size, NUM_WORDS=shape[1], BLOCK=_BLOCK,
        )  # fmt: skip
    return logits_SV
