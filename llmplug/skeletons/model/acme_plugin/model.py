"""The forward pass, in ops: whatever kernels the server chose run it.

Legend: T packed tokens, S rows to sample, D model width, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmplug.ops import DecoderLayer, make_rope_table

from acme_plugin.weights import read_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from llmplug import BuildContext
    from llmplug.ops import AttentionBatch, KVCache


class SeedOssModel:
    """Decoder layers between an embedding and a norm."""

    def __init__(self, context: BuildContext) -> None:
        weights, ops = context.weights, context.ops
        s = read_settings(context.config)
        rope_table_CR = make_rope_table(
            s.head_width, s.rope.theta, context.shape.context_length, s.rope.scaling
        ).to(context.device)
        self._ops, self._eps = ops, s.norm_eps
        self._embed, self._norm, self._head = weights["embed"], weights["norm"], weights["head"]
        self._layers = [
            ops.decoder_layer.prepare(
                DecoderLayer(
                    attention_norm=weights[f"layers.{i}.attention_norm"],
                    qkv=weights[f"layers.{i}.qkv"],
                    o=weights[f"layers.{i}.o"],
                    mlp_norm=weights[f"layers.{i}.mlp_norm"],
                    gate_up=weights[f"layers.{i}.gate_up"],
                    down=weights[f"layers.{i}.down"],
                    rope_table_CR=rope_table_CR,
                    num_heads=s.num_heads // context.num_ranks,
                    num_kv_heads=context.shape.layers[i].num_kv_heads,
                    head_width=s.head_width,
                    scale=s.head_width**-0.5,
                    eps=s.norm_eps,
                )
            )
            for i in range(s.num_layers)
        ]

    def forward(
        self,
        token_ids_T: torch.Tensor,
        positions_T: torch.Tensor,
        caches: Sequence[KVCache],
        attention: AttentionBatch,
    ) -> torch.Tensor:
        """Run packed tokens through all layers; see `llmplug.Model`."""
        x_TD: torch.Tensor | None = None
        residual_TD: torch.Tensor = self._ops.embed(token_ids_T, self._embed)
        for layer, cache in zip(self._layers, caches, strict=True):
            x_TD, residual_TD = self._ops.decoder_layer(
                layer, x_TD, residual_TD, positions_T, cache, attention
            )
        hidden_TD, _ = self._ops.add_rms_norm(x_TD, residual_TD, self._norm, eps=self._eps)
        return hidden_TD

    def compute_logits(self, hidden_SD: torch.Tensor) -> torch.Tensor:
        """Project the rows that are to be sampled: float32 logits_SV."""
        return self._ops.linear(hidden_SD, self._head).float()
