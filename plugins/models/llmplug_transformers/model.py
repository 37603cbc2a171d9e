"""Transformers' model, driven by the engine.

Legend: T packed tokens, S rows to sample, D model width, V vocabulary.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils import logging

from llmplug import CheckpointError
from llmplug.ops import AttentionBatch
from llmplug_transformers.outline import find_class, find_layers, read_config
from llmplug_transformers.paged_attention import NAME, Step, running

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmplug import BuildContext
    from llmplug.ops import KVCache

# How far a token's logits may be from those of transformers alone, as a share of the largest: what
# number formats round. A state that is not in the pages, or a mask that is not causal, is near 1.
_LARGEST_ERROR = {torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 0.1}
_PAGE_SIZE = 4
_TRIED_TOKENS = 11  # more than two pages; the last one comes alone


def build(context: BuildContext) -> TransformersModel:
    """Give transformers the weights, and see that it says the same over pages.

    Raises:
        CheckpointError: it does not, or weights are missing.
    """
    model = TransformersModel(context)
    _compare(model, context)
    return model


class TransformersModel:
    """See `llmplug.Model`."""

    def __init__(self, context: BuildContext) -> None:
        logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        model, info = find_class(context.config).from_pretrained(
            None,
            config=read_config(context.config),
            state_dict=dict(context.weights),
            dtype=context.dtype,
            output_loading_info=True,
        )
        if info["missing_keys"] or info["mismatched_keys"]:
            missing = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
            raise CheckpointError(f"transformers finds no values for {', '.join(missing[:5])}")
        self.whole = model.to(context.device).eval().requires_grad_(False)
        name, self._layers = find_layers(self.whole)
        self._head = _Head(self.whole, name)
        self._attention = context.ops.attention

    def forward(
        self,
        token_ids_T: torch.Tensor,
        positions_T: torch.Tensor,
        caches: Sequence[KVCache],
        attention: AttentionBatch,
    ) -> torch.Tensor:
        """Run packed tokens through all layers; see `llmplug.Model`."""
        with running(Step(self._attention, caches, attention)):
            hidden_1TD: torch.Tensor = self._layers(
                input_ids=token_ids_T[None], position_ids=positions_T[None], use_cache=False
            ).last_hidden_state
        return hidden_1TD[0]

    def compute_logits(self, hidden_SD: torch.Tensor) -> torch.Tensor:
        """Project the rows that are to be sampled: float32 logits_SV."""
        logits_SV: torch.Tensor = self._head(hidden_SD)
        return logits_SV.float()


class _Head:
    """What a model does with the last hidden states, whatever that is: caps, scales, a head.

    It is the model itself, a copy that shares all weights, whose layers hand out what they are
    given.
    """

    def __init__(self, whole: Any, layers: str) -> None:
        self._given = _Given()
        self._model = copy.copy(whole)
        self._model._modules = {**whole._modules, layers: self._given}

    def __call__(self, hidden_SD: torch.Tensor) -> torch.Tensor:
        self._given.hidden_1SD = hidden_SD[None]
        ids_1S = torch.zeros(1, len(hidden_SD), dtype=torch.int64, device=hidden_SD.device)
        logits_1SV: torch.Tensor = self._model(input_ids=ids_1S, use_cache=False).logits
        return logits_1SV[0]


class _Given(torch.nn.Module):
    """Stands where the layers are."""

    hidden_1SD: torch.Tensor

    @property
    def decoder(self) -> _Given:
        """What some models call their layers by."""
        return self

    def forward(self, *_: Any, **__: Any) -> _Output:
        """Return what was given."""
        return _Output(last_hidden_state=self.hidden_1SD)


class _Output(BaseModelOutputWithPast):
    """Layers' output, which has whatever else a head passes on: None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


# --- the comparison at the start ----------------------------------------------------------------
@torch.inference_mode()
def _compare(model: TransformersModel, context: BuildContext) -> None:
    """Read a few tokens whole by transformers alone, and in two steps over pages."""
    num_tokens = min(_TRIED_TOKENS, context.shape.context_length)
    ids_T = torch.arange(num_tokens, device=context.device) * 7 % context.shape.vocab_size
    model.whole.set_attn_implementation("eager")
    try:
        wanted_TV = model.whole(input_ids=ids_T[None], use_cache=False).logits[0].float()
    finally:
        model.whole.set_attn_implementation(NAME)
    caches = [
        context.ops.attention.allocate(
            -(-num_tokens // _PAGE_SIZE),
            _PAGE_SIZE,
            layer.num_kv_heads,
            layer.head_width,
            device=context.device,
            dtype=context.dtype,
        )
        for layer in context.shape.layers
    ]
    hidden = [
        model.forward(
            ids_T[first:last],
            torch.arange(first, last, device=context.device),
            caches,
            _make_batch(first, last, context.device),
        )
        for first, last in ((0, num_tokens - 1), (num_tokens - 1, num_tokens))
    ]
    found_TV = model.compute_logits(torch.cat(hidden))
    error = float((found_TV - wanted_TV).norm(dim=-1).max() / wanted_TV.norm(dim=-1).max())
    if not error <= _LARGEST_ERROR[context.dtype]:
        raise CheckpointError(
            f"{context.config['architectures'][0]}: no plugin offers it, and over the engine's "
            "pages transformers' own code computes something else than without them (logits are "
            f"off by {error:.0%}); its layers may keep a state of another kind than keys and values"
        )


def _make_batch(first: int, last: int, device: torch.device) -> AttentionBatch:
    """One sequence in pages 0, 1, 2, ...; its tokens from `first` on are new."""
    pages = torch.arange(-(-last // _PAGE_SIZE), dtype=torch.int32, device=device)
    return AttentionBatch(
        num_decodes=int(last - first == 1),
        query_lens=(last - first,),
        cached_lens=(last,),
        query_starts_S1=torch.tensor([0, last - first], dtype=torch.int32, device=device),
        cached_lens_S=torch.tensor([last], dtype=torch.int32, device=device),
        block_table_SM=pages[None],
        slots_T=torch.arange(first, last, device=device),
    )
