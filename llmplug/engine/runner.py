"""The caches and the model's forward pass.

Legend: T packed tokens, S rows to choose a token for, D model width, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from llmplug.engine.batch import make_batch
from llmplug.ops import send_to_device

if TYPE_CHECKING:
    from llmplug.engine.batch import Batch
    from llmplug.engine.scheduler import Schedule
    from llmplug.engine.settings import EngineSettings
    from llmplug.ops import KernelTable, KVCache
    from llmplug.specs import Model, ModelShape


class Runner:
    """Owns the KV caches of all layers; they live as long as it does."""

    def __init__(
        self,
        model: Model,
        shape: ModelShape,
        ops: KernelTable,
        settings: EngineSettings,
        device: torch.device,
    ) -> None:
        self._model = model
        self._page_size = settings.page_size
        self._device = device
        dtype: torch.dtype = getattr(torch, settings.cache_dtype)
        self._caches: list[KVCache] = [
            ops.attention.allocate(
                settings.num_pages,
                settings.page_size,
                layer.num_kv_heads,
                layer.head_width,
                device=device,
                dtype=dtype,
            )
            for layer in shape.layers
        ]

    @property
    def cache_bytes(self) -> int:
        """Bytes that the caches hold."""
        return sum(cache.key.nbytes + cache.value.nbytes for cache in self._caches)

    def run(self, schedule: Schedule) -> torch.Tensor:
        """Compute a step's tokens, filling their slots of the caches: hidden_TD."""
        return self._forward(make_batch(schedule, self._page_size, self._device))

    def _forward(self, batch: Batch) -> torch.Tensor:
        return self._model.forward(
            batch.token_ids_T, batch.positions_T, self._caches, batch.attention
        )

    def compute_logits(self, hidden_TD: torch.Tensor, rows: list[int]) -> torch.Tensor:
        """Compute float32 logits_SV of some rows of hidden_TD; the caller may edit them."""
        if len(rows) == len(hidden_TD):
            return self._model.compute_logits(hidden_TD)
        return self._model.compute_logits(hidden_TD[send_to_device(rows, self._device)])
