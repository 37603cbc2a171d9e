"""The key/value caches of all layers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from llmplug.ops import KernelTable, KVCache
    from llmplug.specs import LayerCache


def allocate_caches(
    ops: KernelTable,
    layers: Sequence[LayerCache],
    num_pages: int,
    page_size: int,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> list[KVCache]:
    """Have the attention kernel make each layer's cache, and note its scales."""
    caches = []
    for layer in layers:
        cache = ops.attention.allocate(
            num_pages, page_size, layer.num_kv_heads, layer.head_width, device=device, dtype=dtype
        )
        scales = {"key_scale": layer.key_scale, "value_scale": layer.value_scale}
        caches.append(replace(cache, **scales))
    return caches
