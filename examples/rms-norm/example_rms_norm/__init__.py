"""A kernel in Triton: the op `add_rms_norm`, a program of the GPU for each row.

`add_rms_norm.py` is kernel and launcher. No GPU has run it: its tests run it in Triton's
interpreter, which shows wrong indices, masks and sums, and nothing of speed.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING

from llmplug import KernelSpec, hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch


def _supports(device: str, dtype: str) -> str | None:
    """Return why it does not run there, or None; `llmplug check` prints the reason."""
    is_interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if device != "cuda" and not (device == "cpu" and is_interpreted):
        return f"it runs on an NVIDIA GPU (cuda), or with TRITON_INTERPRET=1, not on {device}"
    if dtype not in ("float32", "bfloat16", "float16"):
        return f"it computes in float32, bfloat16 and float16, not in {dtype}"
    if device == "cpu" and dtype == "bfloat16":
        return "Triton's interpreter cuts what GPUs round to bfloat16"
    if find_spec("triton") is None:
        return "triton is not installed: pip install triton"
    return None


def _load() -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    from example_rms_norm.add_rms_norm import add_rms_norm

    return add_rms_norm


@hookimpl
def llmplug_kernels() -> list[KernelSpec]:
    """Offer a twin of an op; the highest priority that runs on a device is taken."""
    return [
        KernelSpec(
            op="add_rms_norm",
            name="example_rms_norm",
            supports=_supports,
            load=_load,
            priority=30,  # llmplug's own have 20; measure before you say so
        )
    ]
