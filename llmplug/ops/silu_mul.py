"""The gate of a gated feed-forward layer: the torch reference.

Legend: T packed tokens, F width of the feed-forward layer.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from llmplug.ops.table import Op


def silu_mul(x_T2F: torch.Tensor) -> torch.Tensor:
    """Gate the second half of each row with the first.

    Args:
        x_T2F: gate, then up; the last dimension is even.

    Returns:
        y_TF in the dtype of x_T2F, contiguous: silu(x[:, :F]) * x[:, F:], computed in float32.

    Source: https://arxiv.org/abs/2002.05202, section 2 (SwiGLU)
    """
    gate_TF, up_TF = x_T2F.chunk(2, dim=-1)
    return (F.silu(gate_TF.float()) * up_TF.float()).to(x_T2F.dtype)


def _example_inputs(device: torch.device, dtype: torch.dtype) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(3)
    shapes = [(1, 2), (3, 10), (7, 128), (2, 3072), (5, 1002), (0, 64)]
    examples = [
        {"x_T2F": (torch.randn(shape, generator=generator) * 4).to(device, dtype)}
        for shape in shapes
    ]
    # Where exp overflows float32 and float16, the gate is 0 or the identity, never NaN.
    extremes = torch.tensor([[-200.0, 200.0, -88.0, 88.0, 0.0, -0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]])
    return [*examples, {"x_T2F": extremes.to(device, dtype)}]


SILU_MUL = Op(
    name="silu_mul",
    reference=silu_mul,
    # float32: polynomial exp of vector kernels is good to a few ulps. 16 bit: one rounding.
    tolerances={"float32": (1e-5, 1e-6), "bfloat16": (8e-3, 1e-3), "float16": (1e-3, 1e-4)},
    example_inputs=_example_inputs,
)
