"""The forward pass, in ops: whatever kernels the server chose run it.

`ops.decoder_layer` is a layer with one feed-forward net and with norms of single heads, so this
one is put together from smaller ops: `attend` and `feed` below.

Legend: T packed tokens, S rows to sample, D model width, N query heads, K key/value heads, H head
width, E experts, F width of an expert, C experts that a token chooses, V vocabulary.
Source: https://arxiv.org/abs/2409.02060, section 2
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from llmplug.ops import make_rope_table

from example_olmoe.weights import Settings, read_settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    from llmplug import BuildContext
    from llmplug.ops import AttentionBatch, KernelTable, KVCache


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """The weights of a layer; those of `qkv` and `o` are packed for `ops.linear`."""

    attention_norm: torch.Tensor
    qkv: Any
    q_norm: torch.Tensor  # N H
    k_norm: torch.Tensor  # K H
    o: Any
    mlp_norm: torch.Tensor
    router_ED: torch.Tensor
    gate_up_E2FD: torch.Tensor
    down_EDF: torch.Tensor


class OlmoeModel:
    """Layers of attention and experts between an embedding and a norm."""

    def __init__(self, context: BuildContext) -> None:
        weights = context.weights
        self._ops: KernelTable = context.ops
        self._settings = s = read_settings(context.config)
        self._rope_table_CR = make_rope_table(
            int(s.head_width * s.rope.rotary_share),
            s.rope.theta,
            context.shape.context_length,
            s.rope.scaling,
        ).to(context.device)
        self._embed, self._norm, self._head = weights["embed"], weights["norm"], weights["head"]
        self._layers = [_take_layer(weights, f"layers.{i}", s) for i in range(s.num_layers)]

    def forward(
        self,
        token_ids_T: torch.Tensor,
        positions_T: torch.Tensor,
        caches: Sequence[KVCache],
        attention: AttentionBatch,
    ) -> torch.Tensor:
        """Run packed tokens through all layers; see `llmplug.Model`."""
        ops, eps = self._ops, self._settings.norm_eps
        residual_TD: torch.Tensor = ops.embed(token_ids_T, self._embed)
        x_TD: torch.Tensor | None = None  # what is still to be added to it
        for layer, cache in zip(self._layers, caches, strict=True):
            if x_TD is None:
                y_TD = ops.rms_norm(residual_TD, layer.attention_norm, eps=eps)
            else:
                y_TD, residual_TD = ops.add_rms_norm(
                    x_TD, residual_TD, layer.attention_norm, eps=eps
                )
            y_TD = self._attend(layer, y_TD, positions_T, cache, attention)
            y_TD, residual_TD = ops.add_rms_norm(y_TD, residual_TD, layer.mlp_norm, eps=eps)
            x_TD = self._feed(layer, y_TD)
        hidden_TD: torch.Tensor
        hidden_TD, _ = ops.add_rms_norm(x_TD, residual_TD, self._norm, eps=eps)
        return hidden_TD

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
        batch: AttentionBatch,
    ) -> torch.Tensor:
        """Let each token see those before it in its sequence."""
        ops, s = self._ops, self._settings
        heads = (-1, s.head_width)
        q_width, kv_width = s.num_heads * s.head_width, s.num_kv_heads * s.head_width
        q_TD, k_TD, v_TD = ops.linear(x_TD, layer.qkv).split((q_width, kv_width, kv_width), dim=1)
        q_TNH = ops.rms_norm(q_TD, layer.q_norm, eps=s.norm_eps).unflatten(1, heads)
        k_TKH = ops.rms_norm(k_TD, layer.k_norm, eps=s.norm_eps).unflatten(1, heads)
        q_TNH, k_TKH = ops.rope(q_TNH, k_TKH, positions_T, self._rope_table_CR)
        ops.attention.store(cache, k_TKH, v_TD.unflatten(1, heads), batch.slots_T)
        out_TNH = ops.attention.attend(q_TNH, cache, batch, scale=s.head_width**-0.5)
        y_TD: torch.Tensor = ops.linear(out_TNH.flatten(1), layer.o)
        return y_TD

    def _feed(self, layer: Layer, x_TD: torch.Tensor) -> torch.Tensor:
        """Run each token through the experts that the router chooses for it."""
        ops, s = self._ops, self._settings
        weights_TC, experts_TC = ops.route_experts(
            F.linear(x_TD, layer.router_ED),
            num_chosen=s.num_chosen,
            renormalises=s.renormalises,
        )
        y_TD: torch.Tensor = ops.expert_mlp(
            x_TD, layer.gate_up_E2FD, layer.down_EDF, weights_TC, experts_TC
        )
        return y_TD


def _take_layer(weights: Mapping[str, Any], name: str, s: Settings) -> Layer:
    """Pick a layer's weights, and stand the experts, which come one below another, side by side."""
    gate_up, down = weights[f"{name}.gate_up"], weights[f"{name}.down"]
    return Layer(
        attention_norm=weights[f"{name}.attention_norm"],
        qkv=weights[f"{name}.qkv"],
        q_norm=weights[f"{name}.q_norm"],
        k_norm=weights[f"{name}.k_norm"],
        o=weights[f"{name}.o"],
        mlp_norm=weights[f"{name}.mlp_norm"],
        router_ED=weights[f"{name}.router"],
        gate_up_E2FD=gate_up.unflatten(0, (s.num_experts, 2 * s.expert_width)),
        down_EDF=down.unflatten(0, (s.num_experts, s.width)),
    )
