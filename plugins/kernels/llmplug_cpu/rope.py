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

    def rope(
        q_TNH: torch.Tensor, k_TKH: torch.Tensor, positions_T: torch.Tensor, table_CR: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        q_TNH, k_TKH = as_heads(q_TNH, "q_TNH"), as_heads(k_TKH, "k_TKH")
        num_tokens, num_heads, width = q_TNH.shape
        num_kv_heads, rotary = k_TKH.shape[1], table_CR.shape[1]
        if rotary > width or k_TKH.shape != (num_tokens, num_kv_heads, width):
            raise KernelInputError(
                f"cannot rotate {rotary} numbers of heads of {tuple(q_TNH.shape)} "
                f"and {tuple(k_TKH.shape)}"
            )
        if positions_T.dtype is not torch.int64 or positions_T.shape != (num_tokens,):
            raise KernelInputError(f"{num_tokens} tokens need as many int64 positions")
        table_CR, positions_T = as_rows(table_CR, "table_CR").contiguous(), positions_T.contiguous()
        new_q_TNH = torch.empty((num_tokens, num_heads, width))
        new_k_TKH = torch.empty((num_tokens, num_kv_heads, width))
        kernel(
            q_TNH.data_ptr(), q_TNH.stride(0), num_heads, new_q_TNH.data_ptr(),
            k_TKH.data_ptr(), k_TKH.stride(0), num_kv_heads, new_k_TKH.data_ptr(),
            positions_T.data_ptr(), table_CR.data_ptr(), num_tokens, width, rotary // 2,
        )  # fmt: skip
        return new_q_TNH, new_k_TKH

    return rope


def as_heads(x_TNH: torch.Tensor, name: str) -> torch.Tensor:
    """Return x as float32 tokens whose heads lie side by side; a copy only if they do not."""
    x_TNH = as_rows(x_TNH, name)
    return x_TNH if x_TNH.stride(1) == x_TNH.shape[2] else x_TNH.contiguous()
