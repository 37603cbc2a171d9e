"""A whole decoder layer as one op: composed of the other ops, unless a kernel fuses them.

Legend: T packed tokens, D model width, N query heads, K key/value heads, H head width, F width of
the feed-forward layer, R rotary width, C context length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from llmplug.ops.attention import AttentionBatch, KVCache
    from llmplug.ops.table import KernelTable


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderLayer:
    """Attention with rotated positions, then a gated feed-forward layer, each after a norm.

    The packed weights are those of `ops.linear.pack`.
    """

    attention_norm: torch.Tensor  # D
    qkv: Any  # packed, D -> (N + 2 K) H: queries, keys, values
    o: Any  # packed, N H -> D
    mlp_norm: torch.Tensor  # D
    gate_up: Any  # packed, D -> 2 F: gate, then up
    down: Any  # packed, F -> D
    rope_table_CR: torch.Tensor
    num_heads: int
    num_kv_heads: int
    head_width: int
    scale: float  # of q @ k
    eps: float  # of all norms
    q_norm: torch.Tensor | None = None  # H: norm of each query head before its rotation
    k_norm: torch.Tensor | None = None  # H: the same for keys
    window: int | None = None  # tokens a query sees, itself included; None: all before it
    soft_cap: float | None = None  # of the scores, as in `ops.attention`
    sinks_N: torch.Tensor | None = None  # a score of each head that adds nothing, as there


class ComposedDecoderLayer:
    """The op `decoder_layer` in terms of the table's other ops."""

    def __init__(self, ops: KernelTable) -> None:
        self._ops = ops

    def prepare(self, layer: DecoderLayer) -> Any:
        """Return what `__call__` wants of a layer; a kernel may lay it out as it likes."""
        return layer

    def __call__(
        self,
        layer: Any,
        x_TD: torch.Tensor | None,
        residual_TD: torch.Tensor,
        positions_T: torch.Tensor,
        cache: KVCache,
        batch: AttentionBatch,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run one layer: h = r + attention(norm(r)), then h + feed_forward(norm(h)).

        The last sum is left to whoever comes next, who fuses it with a norm.

        Args:
            layer: from `prepare`.
            x_TD: what is still to be added to residual_TD; None before the first layer.
            positions_T: int64, of each token in its sequence.
            cache: this layer's; the new tokens' slots are filled.

        Returns:
            (x_TD, residual_TD), whose sum is the layer's output. A kernel may write both into the
            tensors it was given, which the caller no longer reads.

        Source: https://arxiv.org/abs/2302.13971, section 2.2
        """
        ops, eps = self._ops, layer.eps
        y_TD: torch.Tensor
        if x_TD is None:
            y_TD = ops.rms_norm(residual_TD, layer.attention_norm, eps=eps)
        else:
            y_TD, residual_TD = ops.add_rms_norm(x_TD, residual_TD, layer.attention_norm, eps=eps)
        y_TD = self._attend(layer, y_TD, positions_T, cache, batch)
        y_TD, residual_TD = ops.add_rms_norm(y_TD, residual_TD, layer.mlp_norm, eps=eps)
        y_TD = ops.linear(ops.silu_mul(ops.linear(y_TD, layer.gate_up)), layer.down)
        return y_TD, residual_TD

    def _attend(
        self,
        layer: DecoderLayer,
        x_TD: torch.Tensor,
        positions_T: torch.Tensor,
        cache: KVCache,
        batch: AttentionBatch,
    ) -> torch.Tensor:
        ops = self._ops
        num_heads = layer.num_heads + 2 * layer.num_kv_heads
        qkv_TNH = ops.linear(x_TD, layer.qkv).unflatten(-1, (num_heads, layer.head_width))
        q_TNH = ops.rope_store(qkv_TNH, layer, positions_T, cache, batch.slots_T)
        out_TNH = ops.attention.attend(
            q_TNH, cache, batch, scale=layer.scale, window=layer.window, soft_cap=layer.soft_cap,
            sinks_N=layer.sinks_N,
        )  # fmt: skip
        y_TD: torch.Tensor = ops.linear(out_TNH.flatten(1), layer.o)
        return y_TD
