"""The BERT forward pass, in ops.

Legend: T packed tokens, D model width, H heads, W head width, N texts, L labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F

if TYPE_CHECKING:
    import torch

    from llmplug import BuildContext
    from llmplug.ops import TextBatch
    from llmplug_bert.settings import Settings


class BertEncoder:
    """Layers over the sum of three embeddings; each norm comes after its residual add."""

    def __init__(self, context: BuildContext, settings: Settings) -> None:
        self._weights = context.weights
        self._ops = context.ops
        self._settings = settings
        self._dtype = context.dtype
        self._num_heads = settings.num_heads // context.num_ranks
        weights = context.weights
        # Nearly all tokens are of the first type: it is added to the positions once and for all.
        self._first_type_D = weights["types"][0]

    def encode(self, batch: TextBatch) -> torch.Tensor:
        """Run packed texts through all layers; see `llmplug.Encoder`."""
        hidden_TD = self._embed(batch)
        for layer in range(self._settings.num_layers):
            hidden_TD = self._run_layer(f"layers.{layer}.", hidden_TD, batch)
        return hidden_TD

    def _embed(self, batch: TextBatch) -> torch.Tensor:
        weights, ops = self._weights, self._ops
        x_TD = ops.embed(batch.token_ids_T, weights["words"])
        x_TD += ops.embed(batch.positions_T + self._settings.first_position, weights["positions"])
        if batch.type_ids_T is None:
            x_TD += self._first_type_D
        else:
            x_TD += ops.embed(batch.type_ids_T, weights["types"])
        return self._norm("embed_norm", x_TD, None)

    def _run_layer(self, name: str, hidden_TD: torch.Tensor, batch: TextBatch) -> torch.Tensor:
        weights, ops, s = self._weights, self._ops, self._settings
        head_width = s.width // s.num_heads
        qkv_TD = ops.linear(hidden_TD, weights[f"{name}qkv"])
        query_THW, key_THW, value_THW = (
            part_TD.unflatten(-1, (self._num_heads, head_width))
            for part_TD in qkv_TD.chunk(3, dim=-1)
        )
        seen_THW = ops.text_attention(
            query_THW, key_THW, value_THW, batch.starts, scale=head_width**-0.5
        )
        out_TD = ops.linear(seen_THW.flatten(-2), weights[f"{name}o"])
        hidden_TD = self._norm(f"{name}attention_norm", out_TD, hidden_TD)
        wide_TD = self._activate(ops.linear(hidden_TD, weights[f"{name}up"]))
        out_TD = ops.linear(wide_TD, weights[f"{name}down"])
        return self._norm(f"{name}mlp_norm", out_TD, hidden_TD)

    def _activate(self, x_TD: torch.Tensor) -> torch.Tensor:
        kind = self._settings.activation
        return F.relu(x_TD) if kind == "relu" else F.gelu(x_TD, approximate=kind)

    def _norm(
        self, name: str, x_TD: torch.Tensor, residual_TD: torch.Tensor | None
    ) -> torch.Tensor:
        weights, eps = self._weights, self._settings.norm_eps
        normed_TD: torch.Tensor = self._ops.layer_norm(
            x_TD, weights[f"{name}.weight"], weights[f"{name}.bias"], eps=eps,
            residual_TD=residual_TD,
        )  # fmt: skip
        return normed_TD


class BertClassifier(BertEncoder):
    """The same with a head over the first token of each text."""

    def classify(self, pooled_ND: torch.Tensor) -> torch.Tensor:
        """Score each text; see `llmplug.Classifier`."""
        ops, weights = self._ops, self._weights
        hidden_ND = ops.linear(pooled_ND.to(self._dtype), weights["pooler"]).tanh()
        logits_NL: torch.Tensor = ops.linear(hidden_ND, weights["head"])
        return logits_NL.float()
