"""The ModernBERT forward pass, in ops.

Legend: T packed tokens, D model width, H heads, W head width, N texts, L labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F

from llmplug.ops import make_rope_table
from llmplug_modernbert.settings import SLIDING

if TYPE_CHECKING:
    import torch

    from llmplug import BuildContext
    from llmplug.ops import TextBatch
    from llmplug_modernbert.settings import Settings


class ModernBertEncoder:
    """Layers that norm what they read; most of them see a window, every few the whole text."""

    def __init__(self, context: BuildContext, settings: Settings) -> None:
        self._weights = context.weights
        self._ops = context.ops
        self._settings = settings
        self._dtype = context.dtype
        self._num_heads = settings.num_heads // context.num_ranks
        self._rope_tables = {
            kind: make_rope_table(
                int(settings.head_width * rope.rotary_share),
                rope.theta,
                context.shape.context_length,
                rope.scaling,
            ).to(context.device)
            for kind, rope in settings.ropes.items()
        }

    def encode(self, batch: TextBatch) -> torch.Tensor:
        """Run packed texts through all layers; see `llmplug.Encoder`.

        Segments mean nothing to this model.
        """
        hidden_TD = self._norm(
            "embed_norm", self._ops.embed(batch.token_ids_T, self._weights["words"])
        )
        for layer, kind in enumerate(self._settings.layer_types):
            name = f"layers.{layer}."
            x_TD = self._norm(f"{name}attention_norm", hidden_TD) if layer else hidden_TD
            hidden_TD = hidden_TD + self._attend(name, kind, x_TD, batch)
            hidden_TD = hidden_TD + self._feed_forward(
                name, self._norm(f"{name}mlp_norm", hidden_TD)
            )
        return self._norm("norm", hidden_TD)

    def _attend(self, name: str, kind: str, x_TD: torch.Tensor, batch: TextBatch) -> torch.Tensor:
        weights, ops, s = self._weights, self._ops, self._settings
        qkv_TD = ops.linear(x_TD, weights[f"{name}qkv"])
        query_THW, key_THW, value_THW = (
            part_TD.unflatten(-1, (self._num_heads, s.head_width))
            for part_TD in qkv_TD.chunk(3, dim=-1)
        )
        query_THW, key_THW = ops.rope(
            query_THW, key_THW, batch.positions_T, self._rope_tables[kind]
        )
        seen_THW = ops.text_attention(
            query_THW,
            key_THW,
            value_THW,
            batch.starts,
            scale=s.head_width**-0.5,
            window=s.window if kind == SLIDING else None,
        )
        out_TD: torch.Tensor = ops.linear(seen_THW.flatten(-2), weights[f"{name}o"])
        return out_TD

    def _feed_forward(self, name: str, x_TD: torch.Tensor) -> torch.Tensor:
        weights, ops = self._weights, self._ops
        wide_T2F = ops.linear(x_TD, weights[f"{name}gate_up"])
        gated_TF = ops.gelu_mul(wide_T2F, approximate=self._settings.activation)
        out_TD: torch.Tensor = ops.linear(gated_TF, weights[f"{name}down"])
        return out_TD

    def _norm(self, name: str, x_TD: torch.Tensor) -> torch.Tensor:
        weights = self._weights
        normed_TD: torch.Tensor = self._ops.layer_norm(
            x_TD, weights[f"{name}.weight"], weights.get(f"{name}.bias"),
            eps=self._settings.norm_eps,
        )  # fmt: skip
        return normed_TD


class ModernBertClassifier(ModernBertEncoder):
    """The same with a head over what was pooled of each text."""

    def classify(self, pooled_ND: torch.Tensor) -> torch.Tensor:
        """Score each text; see `llmplug.Classifier`."""
        ops, weights = self._ops, self._weights
        hidden_ND = ops.linear(pooled_ND.to(self._dtype), weights["pooler"])
        hidden_ND = F.gelu(hidden_ND, approximate=self._settings.classifier_activation)
        logits_NL: torch.Tensor = ops.linear(self._norm("pooler_norm", hidden_ND), weights["head"])
        return logits_NL.float()
