"""What the gates share: a launch with one program a block of a row.

Legend: T packed tokens, F width of the feed-forward layer.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import triton

from llmplug import KernelInputError
from llmplug.ops import ModelSizes, Tunable, Workload, bucket_rows
from llmplug_triton.tensors import count_warps, round_up_to_power, with_dense_rows
from llmplug_triton.tuning import cross, find_sizes, list_rows, make_tunable

if TYPE_CHECKING:
    from llmplug.ops import Tuning

# Numbers of a row that one program takes. Two inputs and an output of 16 numbers a thread fit the
# registers, and a single row of 8192 still spreads over eight programs. Not yet measured.
_BLOCK = 1024
_CANDIDATES = cross(BLOCK_F=(256, 512, 1024, 2048, 4096), num_warps=(1, 2, 4, 8))


def launch_gate(
    kernel: Any, op: str, x_T2F: torch.Tensor, tuning: Tuning | None, **settings: Any
) -> torch.Tensor:
    """Gate the second half of each row with the first: y_TF in the dtype of x_T2F.

    Args:
        kernel: (x, y, stride of a row of x, WIDTH, BLOCK_F, `settings`).
        op: its name, for messages and `tuning`.

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
    default = {"BLOCK_F": block, "num_warps": count_warps(block)}
    sizes = find_sizes(tuning, op, x_T2F.dtype, (width, bucket_rows(num_tokens)), default)
    block = min(round_up_to_power(width), sizes["BLOCK_F"])
    kernel[(num_tokens, triton.cdiv(width, block))](
        x_T2F, y_TF, x_T2F.stride(0),
        WIDTH=width, BLOCK_F=block, num_warps=sizes["num_warps"], **settings,
    )  # fmt: skip
    return y_TF


def make_gate_tunable(kernel: Any, op: str) -> Tunable:
    """Describe the free parameters of a gate."""
    return make_tunable(
        kernel,
        name=op,
        shape_names=("width", "rows"),
        candidates=_CANDIDATES,
        is_exact=True,
        workloads=_make_workloads,
    )


def _make_workloads(sizes: ModelSizes, device: torch.device, dtype: torch.dtype) -> list[Workload]:
    width = sizes.ffn_width
    return [
        Workload(
            prepare=partial(_prepare, num_tokens, width, device, dtype),
            num_bytes=3.0 * num_tokens * width * dtype.itemsize,
            num_flops=0.0,
        )
        for num_tokens in list_rows(device)
    ]


def _prepare(
    num_tokens: int, width: int, device: torch.device, dtype: torch.dtype, gate: Any
) -> partial[torch.Tensor]:
    generator = torch.Generator(device).manual_seed(0)
    x_T2F = torch.randn(num_tokens, 2 * width, generator=generator, device=device, dtype=dtype)
    return partial(gate, x_T2F)
