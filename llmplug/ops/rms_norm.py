"""Root-mean-square norm, alone and after a residual add: the torch references.

Legend: T packed tokens, D model width. `..` in front: any leading dimensions, as for the norms of
single heads.
"""

from __future__ import annotations

from typing import Any

import torch

from llmplug.ops.table import Op

# float32: a sum over D in another order differs by about sqrt(D) half-ulps of the mean square.
# 16 bit: one rounding of the result, at most one ulp apart.
TOLERANCES = {"float32": (1e-5, 1e-6), "bfloat16": (8e-3, 1e-3), "float16": (1e-3, 1e-4)}


def rms_norm(x_TD: torch.Tensor, weight_D: torch.Tensor, *, eps: float) -> torch.Tensor:
    """Divide each row by its root mean square and scale it.

    Args:
        x_TD: any number of leading dimensions; need not be contiguous.
        eps: added to the mean square, > 0.

    Returns:
        y_TD in the dtype of x_TD, computed in float32: x / sqrt(mean(x^2) + eps) * weight.

    Source: https://arxiv.org/abs/1910.07467, section 3
    """
    wide_TD = x_TD.float()
    mean_T1 = wide_TD.square().mean(-1, keepdim=True)
    return (wide_TD * torch.rsqrt(mean_T1 + eps) * weight_D.float()).to(x_TD.dtype)


def add_rms_norm(
    x_TD: torch.Tensor, residual_TD: torch.Tensor, weight_D: torch.Tensor, *, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add x to the residual stream and norm the sum.

    Returns:
        (y_TD, sum_TD) in the dtype of x_TD: sum = x + residual, y = rms_norm(sum). A kernel may
        write the sum into residual_TD, which the caller no longer reads.
    """
    sum_TD = x_TD + residual_TD
    return rms_norm(sum_TD, weight_D, eps=eps), sum_TD


def _example_inputs(device: torch.device, dtype: torch.dtype) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(1)
    shapes = [(1, 1), (3, 5), (7, 64), (2, 576), (17, 1000), (0, 64), (4, 3, 64)]
    examples: list[dict[str, Any]] = []
    for shape in shapes:
        x_TD = torch.randn(shape, generator=generator) * 3
        weight_D = torch.randn(shape[-1], generator=generator) + 1
        examples.append({
            "x_TD": x_TD.to(device, dtype), "weight_D": weight_D.to(device, dtype), "eps": 1e-5
        })  # fmt: skip
    # A tiny row: eps decides, not the mean square.
    examples.append({**examples[2], "x_TD": examples[2]["x_TD"] * 1e-4, "eps": 1e-6})
    return examples


def _example_inputs_with_residual(device: torch.device, dtype: torch.dtype) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(2)
    examples = []
    for example in _example_inputs(device, dtype):
        if example["x_TD"].dim() == 2:
            residual_TD = torch.randn(example["x_TD"].shape, generator=generator) * 3
            examples.append({**example, "residual_TD": residual_TD.to(device, dtype)})
    return examples


RMS_NORM = Op(
    name="rms_norm",
    reference=rms_norm,
    tolerances=TOLERANCES,
    example_inputs=_example_inputs,
)
ADD_RMS_NORM = Op(
    name="add_rms_norm",
    reference=add_rms_norm,
    tolerances=TOLERANCES,
    example_inputs=_example_inputs_with_residual,
)
