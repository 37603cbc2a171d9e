"""Architectures: what an engine must know of a model, its weights, and how it is built."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import torch

    from llmplug.ops import AttentionBatch, KernelTable, KVCache
    from llmplug.pooling import PoolingKind

Task = Literal["generate", "embed", "classify"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """One entry of a model's weight table: what the model calls it, and what files call it.

    `{layer}` stands for the layer's number in every string. Several sources are joined along
    dimension 0, in order: `("...q_proj.weight", "...k_proj.weight", "...v_proj.weight")`.

    Attributes:
        name: key in the map that `build` gets.
        sources: names in the checkpoint.
        kind: `linear` goes through `ops.linear.pack` and comes as a packed weight; `embedding`
            and `tensor` come as plain tensors in the model's dtype.
        bias: names of the biases of a linear, joined like `sources`; empty: none.
        tied_to: sources to read where `sources` are absent from the checkpoint, as an output
            head that shares the embedding does.
        rows: size of dimension 0 of each source, checked against the file.
        columns: size of dimension 1 of every source; None: the sources are vectors.
        split: how ranks that compute one model together divide it. `outputs`: by the rows of each
            source, and the biases with them. `inputs`: by columns, after outputs that were
            divided the same way; what the ranks compute is summed. `vocabulary`: an embedding, or
            the head over its tokens, by rows; each rank gets the whole result. None: every rank
            holds all of it, as of norms.
        split_unit: rows (columns of `inputs`) of a source that stay together, such as a head's;
            one for all sources or one for each. Ranks get as many units each; single rows, nearly
            as many, in blocks that a quantised file may have.
        split_parts: rows of each part of one source that holds several, one behind another, as
            fused queries, keys and values: each is divided as a source of its own would be, with
            its `split_unit` and its place in `repeats`; empty: the source is one.
        repeats: of each source, whether ranks share a unit where there are fewer units than ranks,
            as of keys and values; empty: of none.
    """

    name: str
    sources: tuple[str, ...]
    kind: Literal["linear", "embedding", "tensor"] = "linear"
    bias: tuple[str, ...] = ()
    tied_to: tuple[str, ...] = ()
    rows: tuple[int, ...] = ()
    columns: int | None = None
    split: Literal["outputs", "inputs", "vocabulary"] | None = None
    split_unit: int | tuple[int, ...] = 1
    split_parts: tuple[int, ...] = ()
    repeats: tuple[bool, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCache:
    """The key/value cache that one layer needs."""

    num_kv_heads: int
    head_width: int
    window: int | None = None  # tokens a query sees, itself included; None: all
    key_scale: float = 1.0  # of a cache of 8-bit floats; the engine sets it, from the checkpoint
    value_scale: float = 1.0  # the same


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What the engine must know before a weight is read; computed from the config alone."""

    vocab_size: int  # width of the logits
    context_length: int  # longest sequence that the positions are made for
    num_layers: int
    width: int
    layers: tuple[LayerCache, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildContext:
    """All that a model gets to build itself from.

    Where ranks compute it together, `weights` and the key/value heads of `shape` are this rank's,
    and it has `num_ranks` times fewer query heads than the config says.
    """

    config: Mapping[str, Any]
    shape: ModelShape
    weights: Mapping[str, Any]  # by Weight.name, layers filled in: "layers.0.qkv"
    ops: KernelTable
    device: torch.device
    dtype: torch.dtype
    num_ranks: int = 1


class Model(Protocol):
    """A built model; holds its weights, keeps no state between calls."""

    def forward(
        self,
        token_ids_T: torch.Tensor,
        positions_T: torch.Tensor,
        caches: Sequence[KVCache],
        attention: AttentionBatch,
    ) -> torch.Tensor:
        """Run packed tokens through all layers.

        Args:
            token_ids_T: int64.
            positions_T: int64, of each token in its own sequence.
            caches: one per layer, as `ops.attention.allocate` made them.
            attention: which token belongs to which sequence, and where its keys go.
        Returns:
            hidden_TD after the final norm.
        """

    def compute_logits(self, hidden_SD: torch.Tensor) -> torch.Tensor:
        """Project the rows that are to be sampled: float32 logits_SV."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """An architecture.

    Attributes:
        name: short name of the family.
        architectures: entries of `architectures` in config.json that it claims; none only where
            it has `claims`.
        describe: config -> ModelShape, without torch. Raises CheckpointError for settings it does
            not support: a setting that changes the result is never ignored.
        weights: config -> the weight table, every tensor of the checkpoint that matters.
        build: context -> Model; for the tasks `embed` and `classify` an `llmplug.Encoder` or
            `Classifier`. A classifier whose shape has caches is a Model too: its logits are the
            scores of the labels.
        ignored: names of checkpoint tensors that are derived and not read; `{layer}` works.
        task: what it is for; a model that generates can also embed, by its last token.
        classifier_pooling: config -> what a classifier reads of a text; None: its first token, or
            where the shape has caches its last one.
        claims: config -> whether it takes it; makes a fallback, asked for architectures that no
            spec lists.
    """

    name: str
    architectures: tuple[str, ...]
    describe: Callable[[Mapping[str, Any]], ModelShape]
    weights: Callable[[Mapping[str, Any]], Sequence[Weight]]
    build: Callable[[BuildContext], Any]
    ignored: tuple[str, ...] = ()
    task: Task = "generate"
    classifier_pooling: Callable[[Mapping[str, Any]], PoolingKind] | None = None
    claims: Callable[[Mapping[str, Any]], bool] | None = None
