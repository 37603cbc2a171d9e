"""Sizes of models, for which kernels are tuned: a checkpoint's own, or those of usual models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmplug.ops.tuning import ModelSizes
from llmplug.stored_weights import FP8_BLOCK, Fp8Tensor, PackedIntTensor

if TYPE_CHECKING:
    from llmplug.specs import LazyTensor, ModelShape, Weight

_DENSE = {"F32", "BF16", "F16"}
_ROUNDED = ("int8", "int4", "fp8")  # what `weights.format` rounds to at start


def _make_usual(
    width: int, ffn_width: int, heads: tuple[int, int, int], vocab_size: int
) -> ModelSizes:
    """Return a decoder with gated feed-forward layers and joined projections."""
    num_heads, num_kv_heads, head_width = heads
    return ModelSizes(
        width=width,
        ffn_width=ffn_width,
        heads=(heads,),
        weights=(
            ((num_heads + 2 * num_kv_heads) * head_width, width),
            (width, num_heads * head_width),
            (2 * ffn_width, width),
            (width, ffn_width),
        ),
        vocab_size=vocab_size,
        formats=tuple((name, 0) for name in _ROUNDED),
    )


# By parameters, as the models of these sizes have them that are served most.
USUAL_SIZES = {
    "tiny": _make_usual(64, 96, (4, 2, 16), 300),  # to try things on a CPU
    "135m": _make_usual(576, 1536, (9, 3, 64), 49152),
    "0.6b": _make_usual(1024, 3072, (16, 8, 128), 151936),
    "1b": _make_usual(2048, 8192, (32, 8, 64), 128256),
    "8b": _make_usual(4096, 14336, (32, 8, 128), 128256),
    "70b": _make_usual(8192, 28672, (64, 8, 128), 128256),
}


def read_sizes(
    config: Mapping[str, Any],
    shape: ModelShape,
    weights: Sequence[Weight],
    tensors: Mapping[str, LazyTensor],
    wanted: str,
) -> ModelSizes:
    """Read the sizes of a checkpoint from its headers.

    Args:
        config: the fields of config.json.
        wanted: `weights.format` of the config.
    """
    num_heads = int(config.get("num_attention_heads", 1))
    kinds = {(num_heads, layer.num_kv_heads, layer.head_width): None for layer in shape.layers}
    linears = [weight for weight in weights if weight.kind == "linear" and weight.columns]
    joined = {(sum(weight.rows), weight.columns or 0): None for weight in linears}
    formats = {(wanted, 0): None} if wanted in _ROUNDED else _find_formats(linears, tensors)
    return ModelSizes(
        width=shape.width,
        ffn_width=int(config.get("intermediate_size", 4 * shape.width)),
        heads=tuple(kinds),
        weights=tuple(joined),
        vocab_size=shape.vocab_size,
        formats=tuple(formats),
    )


def _find_formats(
    linears: Sequence[Weight], tensors: Mapping[str, LazyTensor]
) -> dict[tuple[str, int], None]:
    """Return the formats of the file's linear weights that are not dense, each once."""
    found: dict[tuple[str, int], None] = {}
    for weight in linears:
        for source in weight.sources:
            tensor = tensors.get(source.format(layer=0))
            if tensor is not None and tensor.format not in _DENSE:
                found[tensor.format, _find_group(tensor)] = None
    return found


def _find_group(tensor: LazyTensor) -> int:
    """Return how many inputs share a scale; 0: as the format has it."""
    if isinstance(tensor, PackedIntTensor):
        return tensor.group
    has_blocks = isinstance(tensor, Fp8Tensor) and tensor.has_blocks
    return FP8_BLOCK if has_blocks else 0
