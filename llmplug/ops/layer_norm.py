"""Layer norm, alone and after a residual add: the torch reference.

Legend: T packed tokens, D model width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from llmplug.ops.rms_norm import TOLERANCES
from llmplug.ops.table import Op


def layer_norm(
    x_TD: torch.Tensor,
    weight_D: torch.Tensor,
    bias_D: torch.Tensor | None,
    *,
    eps: float,
    residual_TD: torch.Tensor | None = None,
) -> torch.Tensor:
    """Shift each row to mean 0, divide it by its deviation, scale and shift it.

    Args:
        bias_D: None: 0.
        eps: added to the variance, > 0.
        residual_TD: added to x before.

    Returns:
        y_TD in the dtype of x_TD, computed in float32:
        (x - mean(x)) / sqrt(var(x) + eps) * weight + bias.

    Source: https://arxiv.org/abs/1607.06450
    """
    sum_TD = x_TD if residual_TD is None else x_TD + residual_TD
    bias = None if bias_D is None else bias_D.float()
    normed_TD = F.layer_norm(sum_TD.float(), weight_D.shape, weight_D.float(), bias, eps)
    return normed_TD.to(x_TD.dtype)


def _example_inputs(device: torch.device, dtype: torch.dtype) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(21)
    examples: list[dict[str, Any]] = []
    for shape in [(1, 1), (3, 5), (7, 64), (2, 384), (17, 1000), (0, 64)]:
        x_TD, residual_TD = torch.randn((2, *shape), generator=generator) * 3
        weight_D = torch.randn(shape[-1], generator=generator) + 1
        bias_D = torch.randn(shape[-1], generator=generator)
        examples.append({
            "x_TD": x_TD.to(device, dtype),
            "weight_D": weight_D.to(device, dtype),
            "bias_D": bias_D.to(device, dtype) if shape[0] != 7 else None,
            "eps": 1e-5,
            "residual_TD": residual_TD.to(device, dtype) if shape[0] % 2 else None,
        })  # fmt: skip
    return examples


LAYER_NORM = Op(
    name="layer_norm",
    reference=layer_norm,
    tolerances=TOLERANCES,
    example_inputs=_example_inputs,
)
