"""Scales of 8-bit key/value caches, which a checkpoint brings among its tensors.

A cache holds x / scale, with one number for the keys of a layer and one for its values. They are
found by name, wherever in its layer, so that no model lists them among its weights.

Names: `k_scale` and `v_scale` of compressed-tensors (https://github.com/vllm-project/
compressed-tensors), before them `k_proj.output_scale` and `v_proj.output_scale`; ModelOpt's
`k_proj.k_scale` and `v_proj.v_scale`; AutoFP8's `kv_scale`, of both. `q_scale` is of queries in 8
bits, which would only take digits from them: it is known, and not read.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llmplug.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from llmplug.specs import LayerCache, LazyTensor

_NAME = re.compile(
    r"(?:.*\.)?(?P<layer>\d+)\.(?:.*\.)?"
    r"(?:(?P<kind>q|k|v|kv)_scale|(?P<proj>[kv])_proj\.output_scale)"
)
_LEAST = 2.0**-126  # float32's smallest normal number: 1 / scale is finite then


@dataclass(frozen=True, slots=True)
class ScaleNames:
    """Names of the tensors with the scales of one layer's cache."""

    key: str
    value: str


def is_scale(name: str) -> bool:
    """Tell whether a tensor that no weight table reads is a scale of attention."""
    return _NAME.fullmatch(name) is not None


def find_scales(unread: Iterable[str], num_layers: int) -> tuple[ScaleNames, ...]:
    """Find the scales of each layer's cache; empty: there are none.

    Args:
        unread: names of tensors that the model itself has no use for.
        num_layers: layers that have a cache.

    Raises:
        CheckpointError: a layer has not just one of each, or there is no such layer.
    """
    found: dict[tuple[int, str], str] = {}
    for name in sorted(unread):
        match = _NAME.fullmatch(name)
        if match is None or match["kind"] == "q":
            continue
        for kind in match["kind"] or match["proj"]:
            place = int(match["layer"]), kind
            if place in found:
                raise CheckpointError(f"{found[place]} and {name} scale the same {kind}")
            found[place] = name
    if not found:
        return ()
    for layer in range(num_layers):
        for kind in "kv":
            if (layer, kind) not in found:
                raise CheckpointError(
                    f"layer {layer} has no {kind}_scale for its cache, and "
                    f"{next(iter(found.values()))} is there: all layers must have theirs"
                )
    if len(found) > 2 * num_layers:
        name = next(name for (layer, _), name in found.items() if layer >= num_layers)
        raise CheckpointError(f"{name} is of a layer without a cache: there are {num_layers}")
    return tuple(ScaleNames(found[i, "k"], found[i, "v"]) for i in range(num_layers))


def read_scales(
    layers: Sequence[LayerCache], names: Sequence[ScaleNames], tensors: Mapping[str, LazyTensor]
) -> tuple[LayerCache, ...]:
    """Return the layers with the scales that `find_scales` has found; none found: all are 1.

    Raises:
        CheckpointError: one is no positive number.
    """
    if not names:
        return tuple(replace(layer, key_scale=1.0, value_scale=1.0) for layer in layers)
    return tuple(
        replace(
            layer,
            key_scale=_read_scale(name.key, tensors[name.key]),
            value_scale=_read_scale(name.value, tensors[name.value]),
        )
        for layer, name in zip(layers, names, strict=True)
    )


def _read_scale(name: str, tensor: LazyTensor) -> float:
    if math.prod(tensor.shape) != 1:
        raise CheckpointError(
            f"{name} has shape {tuple(tensor.shape)}; the keys or values of a layer must have one "
            "scale: scales of heads are not served"
        )
    scale = float(tensor.load().item())
    if not _LEAST <= scale < math.inf:
        raise CheckpointError(f"{name} is {scale}; the scale of a cache must be a positive number")
    return scale
