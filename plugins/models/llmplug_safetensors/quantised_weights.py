"""The tensors of quantised linear weights, gathered into one `LazyTensor` a weight.

GPTQ and AWQ write `x.qweight`, `x.qzeros`, `x.scales` and `x.g_idx` where others have `x.weight`;
fp8 checkpoints have `x.weight` and its scales beside it. O outputs, I inputs, G groups of inputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from llmplug import CheckpointError, Fp8Tensor, PackedIntTensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmplug import LazyTensor
    from llmplug_safetensors.quantisation import Quantisation

_PARTS = ("qweight", "qzeros", "scales", "g_idx")
_WORD_BITS = 32
_FP8_FORMAT = "F8_E4M3"
# The second is what checkpoints with blocks call it; it multiplies too.
_SCALE_NAMES = ("weight_scale", "weight_scale_inv")
_ACTIVATION_SCALE = "input_scale"
# Of keys, as programs have called them; they stay as they are, for the core to read.
_CACHE_SCALES = (".k_scale", ".kv_scale", ".k_proj.output_scale")


def gather_weights(
    stored: Mapping[str, LazyTensor], quantisation: Quantisation
) -> dict[str, LazyTensor]:
    """Replace the parts of each quantised weight by the weight, under the name of a plain one.

    Raises:
        CheckpointError: a part is missing or does not fit the others or the settings.
    """
    if quantisation.has_cache_scales and not any(name.endswith(_CACHE_SCALES) for name in stored):
        raise CheckpointError(
            "kv_cache_scheme promises scales of keys and values, and no tensor ends with one of "
            f"{_CACHE_SCALES}: its files are incomplete"
        )
    tensors, layout = dict(stored), quantisation.layout
    if layout == "F8_E4M3":
        _gather_floats(tensors)
    else:
        _gather_codes(tensors, quantisation, layout)
    return tensors


def _gather_codes(
    tensors: dict[str, LazyTensor],
    quantisation: Quantisation,
    layout: Literal["GPTQ", "GPTQ_V2", "AWQ"],
) -> None:
    for name in [name for name in tensors if name.endswith(".qweight")]:
        module = name.removesuffix(".qweight")
        parts = {part: tensors.pop(f"{module}.{part}", None) for part in _PARTS}
        words, zeros, scales = (parts[part] for part in _PARTS[:3])
        if words is None or zeros is None or scales is None:
            lacking = next(part for part in _PARTS if parts[part] is None)
            raise CheckpointError(f"{module}.{lacking} is missing, and {name} is there")
        if layout == "AWQ" and parts["g_idx"] is not None:
            raise CheckpointError(
                f"{module}.g_idx is there; AWQ weights have their groups in order"
            )
        if any(len(part.shape) != 2 for part in (words, zeros, scales)):
            raise CheckpointError(f"{name}: its parts must be matrices")
        weight = PackedIntTensor(
            layout=layout,
            words=words,
            zeros=zeros,
            scales=scales,
            group_of_I=parts["g_idx"],
            bits=quantisation.bits,
        )
        _check_parts(module, weight, quantisation)
        tensors[f"{module}.weight"] = weight


def _check_parts(module: str, weight: PackedIntTensor, quantisation: Quantisation) -> None:
    """Refuse parts whose shapes or formats are not those that the settings promise."""
    outputs, inputs = weight.shape
    group_size = quantisation.group_size or inputs
    if inputs % group_size:
        raise CheckpointError(f"{module}: {inputs} inputs are no whole groups of {group_size}")
    num_groups = inputs // group_size
    wanted: dict[str, tuple[LazyTensor, tuple[int, ...]]] = {
        "qzeros": (weight.zeros, (num_groups, outputs * quantisation.bits // _WORD_BITS)),
        "scales": (weight.scales, (num_groups, outputs)),
    }
    if weight.group_of_I is not None:
        wanted["g_idx"] = (weight.group_of_I, (inputs,))
    for part, (tensor, shape) in wanted.items():
        if tuple(tensor.shape) != shape:
            raise CheckpointError(
                f"{module}.{part} has shape {tuple(tensor.shape)}; with groups of {group_size} "
                f"and {quantisation.bits} bits it must be {shape}"
            )
    for part, tensor in (("qweight", weight.words), ("qzeros", weight.zeros)):
        if tensor.format != "I32":
            raise CheckpointError(f"{module}.{part} is of {tensor.format}; it must be of I32")


def _gather_floats(tensors: dict[str, LazyTensor]) -> None:
    for name in [name for name, tensor in tensors.items() if tensor.format == _FP8_FORMAT]:
        module = name.removesuffix(".weight")
        scales = [tensors.pop(f"{module}.{scale}", None) for scale in _SCALE_NAMES]
        found = [scale for scale in scales if scale is not None]
        if module == name or len(found) != 1:
            raise CheckpointError(
                f"{name} is of {_FP8_FORMAT}; it must be a weight with one of {_SCALE_NAMES}"
            )
        tensors.pop(f"{module}.{_ACTIVATION_SCALE}", None)  # activations keep their dtype
        tensors[name] = Fp8Tensor(weight=tensors[name], scales=found[0])
