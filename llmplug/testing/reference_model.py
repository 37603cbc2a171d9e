"""The same model in transformers, with the same weights: what logits are compared with.

Legend: T tokens, D model width, V vocabulary, L labels.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch

from llmplug.testing.expect import expect, need

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmplug.specs import Checkpoint


class ReferenceModel:
    """Transformers' class of a checkpoint's architecture, in float32."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Copy the tensors of any checkpoint, dequantised, into the class that its config names."""
        transformers = need("transformers")
        architecture = checkpoint.config["architectures"][0]
        expect(
            hasattr(transformers, architecture),
            f"transformers has no {architecture}: give `reference`, (token ids) -> what another "
            "implementation computes of them",
        )
        config = transformers.AutoConfig.for_model(**checkpoint.config)
        self.model = getattr(transformers, architecture)(config).float().eval()
        self._load(checkpoint)
        self._takes_types = "token_type_ids" in inspect.signature(self.model.forward).parameters

    def _load(self, checkpoint: Checkpoint) -> None:
        state = {name: tensor.load().float() for name, tensor in checkpoint.tensors.items()}
        missing, unexpected = self.model.load_state_dict(state, strict=False)
        tied = set(getattr(self.model, "_tied_weights_keys", None) or ())
        expect(
            not unexpected and set(missing) <= tied,
            f"transformers' {type(self.model).__name__} lacks {sorted(set(missing) - tied)} and "
            f"does not know {unexpected}: the checkpoint is of another model",
        )
        self.model.tie_weights()

    @torch.inference_mode()
    def run(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Return of one text logits_TV, or hidden_TD, or logits_L of its class."""
        inputs: dict[str, Any] = {"input_ids": torch.tensor([list(token_ids)])}
        if self._takes_types:
            inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
        out = self.model(**inputs)
        found: torch.Tensor = out.logits if "logits" in out else out.last_hidden_state
        return found[0]
