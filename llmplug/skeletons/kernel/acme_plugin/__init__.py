"""A kernel: the gate of a feed-forward layer on CPUs, in one buffer where the reference has three.

A kernel is a faster twin of an op of `llmplug.ops`, with its arguments and its tolerances. Nobody
can say beforehand that it is faster: measure, then give it a priority.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmplug import KernelSpec, hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch


def _supports(device: str, dtype: str) -> str | None:
    """Return why it does not run there, or None; `llmplug check` prints the reason."""
    if device != "cpu":
        return f"it runs on a cpu, not on {device}"
    if dtype != "float32":
        return f"it computes in float32, not in {dtype}"
    return None


def _load() -> Callable[[torch.Tensor], torch.Tensor]:
    import torch
    import torch.nn.functional as F

    def silu_mul(x_T2F: torch.Tensor) -> torch.Tensor:
        """See `llmplug.ops.silu_mul`."""
        gate_TF, up_TF = x_T2F.chunk(2, dim=-1)
        out_TF = F.silu(gate_TF)
        return torch.mul(out_TF, up_TF, out=out_TF)

    return silu_mul


@hookimpl
def llmplug_kernels() -> list[KernelSpec]:
    """Offer a twin of the op `silu_mul`; the highest priority that runs on a device is taken."""
    return [
        KernelSpec(
            op="silu_mul",
            name="acme_plugin",
            supports=_supports,
            load=_load,
            priority=5,
        )
    ]
