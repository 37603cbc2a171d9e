"""Launcher of the op `silu_mul`; the kernel is in csrc/rows.cpp.

Legend: T packed tokens, F width of the feed-forward layer.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from llmplug import KernelInputError
from llmplug_cpu.library import as_rows, load_library


def make_silu_mul() -> Callable[[torch.Tensor], torch.Tensor]:
    """Make the twin of `llmplug.ops.silu_mul`."""
    kernel = load_library().llmplug_silu_mul

    def silu_mul(x_T2F: torch.Tensor) -> torch.Tensor:
        x_T2F = as_rows(x_T2F, "x_T2F")
        if x_T2F.dim() != 2 or x_T2F.shape[1] % 2:
            raise KernelInputError(f"silu_mul takes rows of even width, not {tuple(x_T2F.shape)}")
        num_tokens, width = x_T2F.shape[0], x_T2F.shape[1] // 2
        y_TF = torch.empty((num_tokens, width))
        kernel(x_T2F.data_ptr(), x_T2F.stride(0), num_tokens, width, y_TF.data_ptr())
        return y_TF

    return silu_mul
