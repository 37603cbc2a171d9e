"""From hidden states to one vector a text: what embedding models and classifiers are made of.

Public for plugin authors. Nothing here imports torch.

Legend: T packed tokens, D model width, N texts, L labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from llmplug.errors import InvalidRequest

if TYPE_CHECKING:
    import torch

    from llmplug.ops import TextBatch

PoolingKind = Literal["cls", "mean", "last", "max"]
PoolingTask = Literal["embed", "classify", "token_embed"]
Activation = Literal["none", "tanh", "relu", "gelu", "silu", "sigmoid"]


class Encoder(Protocol):
    """A built model that reads texts whole; holds its weights, keeps no state between calls."""

    def encode(self, batch: TextBatch) -> torch.Tensor:
        """Run packed texts through all layers; return hidden_TD."""


class Classifier(Encoder, Protocol):
    """An encoder with a head."""

    def classify(self, pooled_ND: torch.Tensor) -> torch.Tensor:
        """Score what was pooled of each text: float32 logits_NL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseLayer:
    """One linear layer over what was pooled, and what is done to its numbers.

    Attributes:
        folder: of the model's, that its weights lie in.
    """

    folder: str
    num_inputs: int
    num_outputs: int
    has_bias: bool
    activation: Activation = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooling:
    """How the hidden states of a text become its vector.

    Attributes:
        kind: `cls`: the first token's; `last`: the last token's; `mean`, `max`: over all tokens.
        dense: layers that what was pooled passes through, in order.
        is_normalised: whether vectors are scaled to length 1, in the end.
        max_tokens: of a text, its frame included; None: the context of the model.
        prompts: what may be put before a text, by name.
        default_prompt: the name of the one that is put there unasked.
        source: where this was found, for the report.
    """

    kind: PoolingKind
    is_normalised: bool
    dense: tuple[DenseLayer, ...] = ()
    max_tokens: int | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    source: str = ""

    @property
    def width(self) -> int | None:
        """Numbers of an embedding; None: as many as the model is wide."""
        return self.dense[-1].num_outputs if self.dense else None

    def find_prompt(self, name: str | None) -> str:
        """Return what is put before a text.

        Args:
            name: None: what is put there unasked.
        Raises:
            InvalidRequest: there is no prompt of that name.
        """
        wanted = self.default_prompt if name is None else name
        if wanted is None:
            return ""
        if wanted not in self.prompts:
            known = ", ".join(sorted(self.prompts)) or "none"
            raise InvalidRequest(
                f"'prompt_name' is {wanted[:64]!r}; this model knows: {known}.",
                param="prompt_name",
            )
        return self.prompts[wanted]
