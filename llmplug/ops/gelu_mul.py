"""The gate of a gated feed-forward layer with GELU: the torch reference.

Legend: T packed tokens, F width of the feed-forward layer.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from llmplug.ops.table import Op


def gelu_mul(x_T2F: torch.Tensor, *, approximate: str = "tanh") -> torch.Tensor:
    """Gate the second half of each row with the first.

    Args:
        x_T2F: gate, then up; the last dimension is even.
        approximate: as in torch: `tanh`, which most checkpoints were trained with
            (`gelu_pytorch_tanh`), or `none`, by the error function.

    Returns:
        y_TF in the dtype of x_T2F, contiguous: gelu(x[:, :F]) * x[:, F:], computed in float32.

    Source: https://arxiv.org/abs/2002.05202, section 2 (GEGLU)
    """
    gate_TF, up_TF = x_T2F.chunk(2, dim=-1)
    return (F.gelu(gate_TF.float(), approximate=approximate) * up_TF.float()).to(x_T2F.dtype)


def _example_inputs(device: torch.device, dtype: torch.dtype) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(7)
    shapes = [(1, 2), (3, 10), (7, 128), (2, 3072), (5, 1002), (0, 64)]
    inputs = [torch.randn(shape, generator=generator) * 4 for shape in shapes]
    # Where exp, or the gate's third power, overflows: the gate is 0 or the identity, never NaN.
    inputs.append(torch.tensor([[-3e4, 3e4, -10.0, 10.0, 0.0, -0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]]))
    return [
        {"x_T2F": x_T2F.to(device, dtype), "approximate": approximate}
        for x_T2F in inputs
        for approximate in ("tanh", "none")
    ]


GELU_MUL = Op(
    name="gelu_mul",
    reference=gelu_mul,
    # float32: where the gate is far below 0 it is a small difference of 1 and nearly 1, so errors
    # are of the size of its ulp. 16 bit: one rounding.
    tolerances={"float32": (1e-5, 1e-5), "bfloat16": (8e-3, 1e-3), "float16": (1e-3, 1e-4)},
    example_inputs=_example_inputs,
)
