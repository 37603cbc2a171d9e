"""Linear layers on the CPU in float32, on weights laid out once for oneDNN.

`linear.py` is the kernel. It needs no compiler: torch brings oneDNN along.
"""

from __future__ import annotations

from typing import Any

from llmplug import KernelSpec, hookimpl


def _supports(device: str, dtype: str) -> str | None:
    if device != "cpu":
        return f"it runs on a cpu, not on {device}"
    if dtype != "float32":
        return f"it computes in float32, not in {dtype}"
    from llmplug_onednn.linear import find_reason_against

    return find_reason_against()


def _load() -> Any:
    from llmplug_onednn.linear import PrepackedLinear

    return PrepackedLinear()


@hookimpl
def llmplug_kernels() -> list[KernelSpec]:
    """Offer a twin of the op `linear`."""
    return [
        KernelSpec(op="linear", name="onednn", supports=_supports, load=_load, priority=10),
    ]
