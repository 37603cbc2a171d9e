"""Launchers of the ops `rms_norm` and `add_rms_norm`; the kernel is in csrc/rows.cpp.

Legend: T packed tokens, D model width. Rows must be evenly spaced; others are copied.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from llmplug import KernelInputError
from llmplug_cpu.library import as_rows, load_library


def make_rms_norm() -> Callable[..., torch.Tensor]:
    """Make the twin of `llmplug.ops.rms_norm`."""
    kernel = load_library().llmplug_rms_norm

    def rms_norm(x_TD: torch.Tensor, weight_D: torch.Tensor, *, eps: float) -> torch.Tensor:
        if x_TD.dim() != 2:
            return rms_norm(x_TD.reshape(-1, x_TD.shape[-1]), weight_D, eps=eps).view(x_TD.shape)
        x_TD, weight_D = as_rows(x_TD, "x_TD"), as_rows(weight_D, "weight_D")
        num_tokens, width = x_TD.shape
        _check_weight(weight_D, width)
        y_TD = torch.empty((num_tokens, width))
        kernel(
            x_TD.data_ptr(), x_TD.stride(0), None, weight_D.data_ptr(),
            num_tokens, width, eps, y_TD.data_ptr(), None,
        )  # fmt: skip
        return y_TD

    return rms_norm


def make_add_rms_norm() -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """Make the twin of `llmplug.ops.add_rms_norm`."""
    kernel = load_library().llmplug_rms_norm

    def add_rms_norm(
        x_TD: torch.Tensor, residual_TD: torch.Tensor, weight_D: torch.Tensor, *, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        x_TD, weight_D = as_rows(x_TD, "x_TD"), as_rows(weight_D, "weight_D")
        residual_TD = as_rows(residual_TD, "residual_TD").contiguous()
        num_tokens, width = x_TD.shape
        _check_weight(weight_D, width)
        if residual_TD.shape != x_TD.shape:
            raise KernelInputError(f"a residual of {tuple(residual_TD.shape)} for {x_TD.shape}")
        y_TD = torch.empty((num_tokens, width))
        sum_TD = torch.empty((num_tokens, width))
        kernel(
            x_TD.data_ptr(), x_TD.stride(0), residual_TD.data_ptr(), weight_D.data_ptr(),
            num_tokens, width, eps, y_TD.data_ptr(), sum_TD.data_ptr(),
        )  # fmt: skip
        return y_TD, sum_TD

    return add_rms_norm


def _check_weight(weight_D: torch.Tensor, width: int) -> None:
    if weight_D.numel() != width:
        raise KernelInputError(f"a weight of {weight_D.numel()} numbers for rows of {width}")
