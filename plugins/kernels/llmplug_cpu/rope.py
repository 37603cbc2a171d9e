"""Launcher of the op `rope`; the kernel is in csrc/rows.cpp.

Legend: T packed tokens, N query heads, K key/value heads, H head width, R rotary width, C context.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from llmplug import KernelInputError
from llmplug_cpu.library import as_rows, load_library


def make_rope() -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """Make the twin of `llmplug.ops.rope`."""
    kernel = load_library().llmplug_rope

    def rotate(
        x_TNH: torch.Tensor, positions_T: torch.Tensor, table_CR: torch.Tensor
    ) -> torch.Tensor:
        x_TNH = as_heads(x_TNH, "q or k")
        num_tokens, num_heads, width = x_TNH.shape
        rotary = table_CR.shape[1]
        if rotary > width or positions_T.shape[0] != num_tokens:
            raise KernelInputError(
                f"cannot rotate {rotary} of {width} numbers of {num_tokens} tokens "
                f"at {positions_T.shape[0]} positions"
            )
        y_TNH = torch.empty((num_tokens, num_heads, width))
        kernel(
            x_TNH.data_ptr(), x_TNH.stride(0), positions_T.data_ptr(), table_CR.data_ptr(),
            num_tokens, num_heads, width, rotary // 2, y_TNH.data_ptr(),
        )  # fmt: skip
        return y_TNH

    def rope(
        q_TNH: torch.Tensor, k_TKH: torch.Tensor, positions_T: torch.Tensor, table_CR: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if positions_T.dtype is not torch.int64:
            raise KernelInputError(f"positions_T must be int64, not {positions_T.dtype}")
        table_CR = as_rows(table_CR, "table_CR").contiguous()
        positions_T = positions_T.contiguous()
        return rotate(q_TNH, positions_T, table_CR), rotate(k_TKH, positions_T, table_CR)

    return rope


def as_heads(x_TNH: torch.Tensor, name: str) -> torch.Tensor:
    """Return x as float32 tokens whose heads lie side by side; a copy only if they do not."""
    x_TNH = as_rows(x_TNH, name)
    return x_TNH if x_TNH.stride(1) == x_TNH.shape[2] else x_TNH.contiguous()
