"""A model that generates, made to read texts whole: its pages last for one step."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from llmplug.engine.caches import allocate_caches
from llmplug.ops import AttentionBatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmplug.engine.settings import EngineSettings
    from llmplug.ops import TextBatch
    from llmplug.specs import BuildContext, Model


class CausalReader:
    """Reads texts as prompts. Each gets pages from the first on; nothing is kept of them."""

    def __init__(
        self,
        model: Model,
        context: BuildContext,
        settings: EngineSettings,
    ) -> None:
        self._model = model
        self._page_size = settings.page_size
        self._device = device = context.device
        self._dtype = context.dtype
        self._caches = allocate_caches(
            context.ops,
            context.shape.layers,
            settings.num_pages,
            settings.page_size,
            device=device,
            dtype=getattr(torch, settings.cache_dtype),
        )

    def encode(self, batch: TextBatch) -> torch.Tensor:
        """Run packed texts through all layers; return hidden_TD, in their order.

        Texts of one token come first, as decodes do.
        """
        lengths = [end - start for start, end in pairwise(batch.starts)]
        order = sorted(range(len(lengths)), key=lambda i: lengths[i] > 1)
        token_order_T = torch.cat(
            [torch.arange(batch.starts[i], batch.starts[i + 1]) for i in order]
        ).to(self._device)
        attention = self._place([lengths[i] for i in order], batch.positions_T[token_order_T])
        hidden_TD = self._model.forward(
            batch.token_ids_T[token_order_T],
            batch.positions_T[token_order_T],
            self._caches,
            attention,
        )
        back_TD = torch.empty_like(hidden_TD)
        back_TD[token_order_T] = hidden_TD
        return back_TD

    def classify(self, pooled_ND: torch.Tensor) -> torch.Tensor:
        """Score each text by the model's head, which is over labels: float32 logits_NL."""
        return self._model.compute_logits(pooled_ND.to(self._dtype))

    def _place(self, lengths: Sequence[int], positions_T: torch.Tensor) -> AttentionBatch:
        """Give each text pages of its own."""
        lengths_S = torch.tensor(lengths, dtype=torch.int32)
        num_pages_S = -(-lengths_S // self._page_size)
        first_S = num_pages_S.cumsum(0) - num_pages_S
        columns = torch.arange(int(num_pages_S.max()))
        table_SM = torch.where(columns < num_pages_S[:, None], first_S[:, None] + columns, -1)
        first_T = first_S.repeat_interleave(lengths_S).to(self._device)
        starts_S1 = torch.cat([torch.zeros(1, dtype=torch.int32), lengths_S.cumsum(0)])
        return AttentionBatch(
            num_decodes=sum(length == 1 for length in lengths),
            query_lens=tuple(lengths),
            cached_lens=tuple(lengths),
            query_starts_S1=starts_S1.to(self._device, torch.int32),
            cached_lens_S=lengths_S.to(self._device),
            block_table_SM=table_SM.to(self._device, torch.int32),
            slots_T=first_T.long() * self._page_size + positions_T,
        )
