"""The Qwen3 forward pass, in ops.

Legend: T packed tokens, S rows to sample, D model width, N query heads, K key/value heads, H head
width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmplug.ops import make_rope_table
from llmplug_qwen3.weights import read_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from llmplug import BuildContext
    from llmplug.ops import AttentionBatch, KVCache


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """The weights of one layer, and what it sees."""

    window: int | None
    attention_norm: torch.Tensor
    qkv: Any
    q_norm: torch.Tensor
    k_norm: torch.Tensor
    o: Any
    mlp_norm: torch.Tensor
    gate_up: Any
    down: Any


class Qwen3Model:
    """Attention with rotated positions and a gated feed-forward layer, each after a norm."""

    def __init__(self, context: BuildContext) -> None:
        weights = context.weights
        self._ops = context.ops
        self._settings = s = read_settings(context.config)
        self._scale = s.head_width**-0.5
        self._embed = weights["embed"]
        self._norm = weights["norm"]
        self._head = weights["head"]
        self._layers = [
            Layer(
                window=window,
                attention_norm=weights[f"layers.{i}.attention_norm"],
                qkv=weights[f"layers.{i}.qkv"],
                q_norm=weights[f"layers.{i}.q_norm"],
                k_norm=weights[f"layers.{i}.k_norm"],
                o=weights[f"layers.{i}.o"],
                mlp_norm=weights[f"layers.{i}.mlp_norm"],
                gate_up=weights[f"layers.{i}.gate_up"],
                down=weights[f"layers.{i}.down"],
            )
            for i, window in enumerate(s.windows)
        ]
        self._rope_table = make_rope_table(
            int(s.head_width * s.rope.rotary_share),
            s.rope.theta,
            context.shape.context_length,
            s.rope.scaling,
        ).to(context.device)

    def forward(
        self,
        token_ids_T: torch.Tensor,
        positions_T: torch.Tensor,
        caches: Sequence[KVCache],
        attention: AttentionBatch,
    ) -> torch.Tensor:
        """Run packed tokens through all layers; see `llmplug.Model`."""
        ops, eps = self._ops, self._settings.norm_eps
        x_TD: torch.Tensor
        residual_TD = ops.embed(token_ids_T, self._embed)
        x_TD = ops.rms_norm(residual_TD, self._layers[0].attention_norm, eps=eps)
        # Each norm is fused with the add before it, so a layer ends with the norm of the next.
        next_norms = [*(layer.attention_norm for layer in self._layers[1:]), self._norm]
        for layer, cache, next_norm in zip(self._layers, caches, next_norms, strict=True):
            x_TD = self._attend(layer, x_TD, positions_T, cache, attention)
            x_TD, residual_TD = ops.add_rms_norm(x_TD, residual_TD, layer.mlp_norm, eps=eps)
            x_TD = ops.linear(ops.silu_mul(ops.linear(x_TD, layer.gate_up)), layer.down)
            x_TD, residual_TD = ops.add_rms_norm(x_TD, residual_TD, next_norm, eps=eps)
        return x_TD

    def compute_logits(self, hidden_SD: torch.Tensor) -> torch.Tensor:
        """Project the rows that are to be sampled: float32 logits_SV."""
        logits_SV: torch.Tensor = self._ops.linear(hidden_SD, self._head)
        return logits_SV.float()

    def _attend(
        self,
        layer: Layer,
        x_TD: torch.Tensor,
        positions_T: torch.Tensor,
        cache: KVCache,
        attention: AttentionBatch,
    ) -> torch.Tensor:
        ops, s = self._ops, self._settings
        heads = (s.num_heads, s.num_kv_heads, s.num_kv_heads)
        qkv_TNH = ops.linear(x_TD, layer.qkv).unflatten(-1, (sum(heads), s.head_width))
        q_TNH, k_TKH, v_TKH = qkv_TNH.split(heads, dim=1)
        q_TNH = ops.rms_norm(q_TNH, layer.q_norm, eps=s.norm_eps)
        k_TKH = ops.rms_norm(k_TKH, layer.k_norm, eps=s.norm_eps)
        q_TNH, k_TKH = ops.rope(q_TNH, k_TKH, positions_T, self._rope_table)
        ops.attention.store(cache, k_TKH, v_TKH, attention.slots_T)
        out_TNH = ops.attention.attend(
            q_TNH, cache, attention, scale=self._scale, window=layer.window
        )
        y_TD: torch.Tensor = ops.linear(out_TNH.flatten(1), layer.o)
        return y_TD
