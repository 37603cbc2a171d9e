"""What the gates share: a launch with one program a block of a row.

Legend: T packed tokens, F width of the feed-forward layer.
"""

from __future__ import annotations

from typing import Any

import torch
import triton

from llmplug import KernelInputError
from llmplug_triton.tensors import count_warps, round_up_to_power, with_dense_rows

# Numbers of a row that one program takes. Two inputs and an output of 16 numbers a thread fit the
# registers, and a single row of 8192 still spreads over eight programs. Not yet measured.
_BLOCK = 1024


def launch_gate(kernel: Any, op: str, x_T2F: torch.Tensor, **settings: Any) -> torch.Tensor:
    """Gate the second half of each row with the first: y_TF in the dtype of x_T2F.

    Args:
        kernel: (x, y, stride of a row of x, WIDTH, BLOCK_F, `settings`).
        op: its name, for messages.

    Raises:
        KernelInputError: x is no matrix, or its rows are of odd width.
    """
    if x_T2F.dim() != 2 or x_T2F.shape[1] % 2:
        raise KernelInputError(f"{op} takes rows of even width, not {tuple(x_T2F.shape)}")
    x_T2F = with_dense_rows(x_T2F)
    num_tokens, width = x_T2F.shape[0], x_T2F.shape[1] // 2
    y_TF = torch.empty((num_tokens, width), device=x_T2F.device, dtype=x_T2F.dtype)
    if y_TF.numel() == 0:
        return y_TF
    block = min(round_up_to_power(width), _BLOCK)
    kernel[(num_tokens, triton.cdiv(width, block))](
        x_T2F, y_TF, x_T2F.stride(0),
        WIDTH=width, BLOCK_F=block, num_warps=count_warps(block), **settings,
    )  # fmt: skip
    return y_TF
