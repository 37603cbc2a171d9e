"""Which kernels heed the scales of a cache of 8-bit floats."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmplug.ops.table import KernelChoice
    from llmplug.specs import KernelSpec

_WITH_CACHE = ("attention", "rope_store", "decoder_layer")  # ops that read or fill one


def explain_no_scales(spec: KernelSpec, device: str) -> str | None:
    """Say why a kernel must get no cache with scales; None: it may."""
    if spec.supports_scales is None:
        return "it knows no scales of caches"
    return spec.supports_scales(device)


def find_obstacle(
    choices: Iterable[KernelChoice], specs: Iterable[tuple[KernelSpec, str]], device: str
) -> str | None:
    """Name the chosen kernel that must get no cache with scales, and why; None: all may.

    Args:
        specs: (kernel, name of the plugin that brought it); references and what is composed of
            other ops are none of these, and heed scales.
    """
    by_name = {(spec.op, spec.name): spec for spec, _ in specs}
    for choice in choices:
        spec = by_name.get((choice.op, choice.kernel))
        if choice.op not in _WITH_CACHE or spec is None:
            continue
        reason = explain_no_scales(spec, device)
        if reason is not None:
            return f"{choice.op}/{choice.kernel}: {reason}"
    return None
