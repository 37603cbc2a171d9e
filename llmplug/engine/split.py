"""How a model is divided among ranks that compute it together; from headers and configs alone.

Every source of a weight is cut into units, and each rank takes neighbouring ones: heads, single
rows of a feed-forward layer, tokens of a vocabulary. `Weight.split` says which way. A source that
holds several parts, as fused queries, keys and values, is several sources here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from llmplug.errors import CheckpointError, KernelInputError
from llmplug.tensor_slices import slice_tensor

if TYPE_CHECKING:
    from llmplug.specs import LazyTensor, ModelShape, Weight

    _Share = tuple[int, int, int] | None  # dimension, start, end; None: all of it


_BLOCKS = (256, 128, 64, 32)  # numbers with one scale, as quantised files have them
_MANY = 8  # blocks a rank: one more is an eighth
_KINDS: dict[str, tuple[str, ...]] = {  # of weights, by how they are divided
    "outputs": ("linear", "tensor"),
    "inputs": ("linear",),
    "vocabulary": ("linear", "embedding"),
}


def check_split(table: Sequence[Weight], shape: ModelShape, num_ranks: int) -> str | None:
    """Say in a sentence why ranks cannot divide a model, None: they can.

    Args:
        table: the model's weights, `{layer}` not filled in.
    """
    if num_ranks == 1:
        return None
    split = [weight for weight in table if weight.split is not None]
    if not split:
        return "its plugin does not say how its weights are divided"
    for weight in split:
        mistake = _find_mistake(weight)
        if mistake is not None:
            return f"its plugin says of {weight.name.format(layer=0)} {mistake}"
    for layer in shape.layers:
        if layer.num_kv_heads % num_ranks and num_ranks % layer.num_kv_heads:
            return f"{layer.num_kv_heads} key/value heads are not divided evenly by {num_ranks}"
    obstacles = (_find_obstacle(_name_parts(weight), num_ranks) for weight in split)
    return next(filter(None, obstacles), None)


def split_shape(shape: ModelShape, num_ranks: int) -> ModelShape:
    """Return what a rank's caches are: its share of the key/value heads, at least one."""
    layers = tuple(
        dataclasses.replace(layer, num_kv_heads=max(1, layer.num_kv_heads // num_ranks))
        for layer in shape.layers
    )
    return dataclasses.replace(shape, layers=layers)


def take_share(size: int, unit: int, rank: int, num_ranks: int) -> tuple[int, int]:
    """Return where a rank's rows begin and end; fewer units than ranks are shared.

    Single rows are taken in blocks, which a file may give one scale, where the blocks of a size
    are as many for each rank, or so many that one more matters little.
    """
    for block in _BLOCKS if unit == 1 else ():
        num_blocks = size // block
        is_fair = num_blocks % num_ranks == 0 or num_blocks >= _MANY * num_ranks
        if size % block == 0 and is_fair:
            unit = block
            break
    num_units = size // unit
    first = rank * num_units // num_ranks
    last = max(first + 1, (rank + 1) * num_units // num_ranks)
    return first * unit, last * unit


def split_weights(
    weights: Sequence[Weight],
    tensors: Mapping[str, LazyTensor],
    rank: int,
    num_ranks: int,
) -> tuple[list[Weight], dict[str, LazyTensor]]:
    """Cut every source to a rank's share; reads no numbers.

    Args:
        weights: with `{layer}` filled in and ties resolved.
        tensors: of the checkpoint, by name.

    Returns:
        The weights that the rank has, and their tensors. The bias of weights that are divided by
        inputs is the first rank's, as products are summed.

    Raises:
        CheckpointError: a tensor cannot be cut there, or two weights divide it in two ways.
    """
    shares: dict[str, _Share] = {}
    kept = []
    tensors = {**tensors, **_take_apart(weights, tensors)}
    for weight in map(_name_parts, weights):
        has_bias = weight.split != "inputs" or rank == 0
        kept.append(weight if has_bias else dataclasses.replace(weight, bias=()))
        for name, share in _find_shares(weight, tensors, rank, num_ranks):
            if shares.setdefault(name, share) != share:
                raise CheckpointError(f"{name} is read by two weights, which divide it in two ways")
    parts = {name: _cut(name, tensors[name], share) for name, share in shares.items()}
    return kept, parts


def _name_parts(weight: Weight) -> Weight:
    """Return a weight whose parts are sources, and biases, of their own."""
    if not weight.split_parts:
        return weight
    return dataclasses.replace(
        weight,
        sources=tuple(_list_parts(weight, *weight.sources)),
        bias=tuple(name for fused in weight.bias for name in _list_parts(weight, fused)),
        rows=weight.split_parts,
        split_parts=(),
    )


def _list_parts(weight: Weight, fused: str) -> dict[str, tuple[int, int]]:
    """Return where each part of a source, or of its bias, begins and ends, by a name for it."""
    bounds = pairwise(accumulate(weight.split_parts, initial=0))
    return {f"{fused}[{start}:{end}]": (start, end) for start, end in bounds}


def _take_apart(
    weights: Sequence[Weight], tensors: Mapping[str, LazyTensor]
) -> dict[str, LazyTensor]:
    """Return the tensors of all parts, by their names."""
    return {
        name: _cut(fused, tensors[fused], (0, *bounds))
        for weight in weights
        if weight.split_parts
        for fused in (*weight.sources, *weight.bias)
        for name, bounds in _list_parts(weight, fused).items()
    }


def _find_shares(
    weight: Weight, tensors: Mapping[str, LazyTensor], rank: int, num_ranks: int
) -> list[tuple[str, _Share]]:
    if weight.split is None:
        return [(name, None) for name in (*weight.sources, *weight.bias)]
    units = _list_units(weight)
    if weight.split == "inputs":
        found: list[tuple[str, _Share]] = [(name, None) for name in weight.bias]
        for name in weight.sources:
            share = take_share(tensors[name].shape[1], units[0], rank, num_ranks)
            found.append((name, (1, *share)))
        return found
    return [
        (name, (0, *take_share(tensors[name].shape[0], unit, rank, num_ranks)))
        for part in (weight.sources, weight.bias)
        for name, unit in zip(part, units, strict=bool(part))
    ]


def _cut(name: str, tensor: LazyTensor, share: _Share) -> LazyTensor:
    if share is None:
        return tensor
    try:
        return slice_tensor(tensor, *share)
    except (CheckpointError, KernelInputError) as error:
        raise CheckpointError(f"{name} cannot be divided: {error}") from error


def _find_mistake(weight: Weight) -> str | None:
    """Return what a plugin cannot say of a weight, worded to follow its name."""
    if weight.split not in _KINDS:
        return f"split={weight.split!r}, not one of {', '.join(_KINDS)}"
    if weight.kind not in _KINDS[weight.split]:
        return f"split={weight.split!r}, which is for {' and '.join(_KINDS[weight.split])} weights"
    if weight.split == "vocabulary" and len(weight.sources) > 1:
        return f"split={weight.split!r}, and that it has {len(weight.sources)} sources"
    if weight.split_parts:
        is_one = weight.split == "outputs" and len(weight.sources) == 1
        if not is_one or min(weight.split_parts) < 1 or (sum(weight.split_parts),) != weight.rows:
            return f"split_parts={weight.split_parts}, not of the rows of one source of outputs"
        weight = _name_parts(weight)
    units = _list_units(weight)
    num_units = 1 if weight.split == "inputs" else len(weight.sources)
    if len(units) != num_units or min(units) < 1 or len(weight.repeats) not in {0, num_units}:
        return f"split_unit={weight.split_unit} and repeats={weight.repeats}, one for each source"
    return None


def _find_obstacle(weight: Weight, num_ranks: int) -> str | None:
    """Say why ranks cannot share one weight."""
    units, name = _list_units(weight), weight.name.format(layer=0)
    is_by_rows = weight.split != "inputs"
    sizes = (weight.rows if is_by_rows else (weight.columns or 0,)) or (0,) * len(units)
    repeats = weight.repeats or (False,) * len(units)
    for size, unit, is_shared in zip(sizes, units, repeats, strict=True):
        count = size // unit
        is_even = count % num_ranks == 0 or (unit == 1 and count > num_ranks)
        is_repeated = is_shared and count > 0 and num_ranks % count == 0
        if count == 0 or size % unit or not (is_even or is_repeated):
            of_each = "" if unit == 1 else f" in units of {unit}"
            things = "rows" if is_by_rows else "columns"
            return f"{size} {things} of {name}{of_each} are not divided evenly by {num_ranks}"
    return None


def _list_units(weight: Weight) -> tuple[int, ...]:
    """Return the unit of each source, or the one of all columns."""
    if isinstance(weight.split_unit, tuple):
        return weight.split_unit
    return (weight.split_unit,) * (1 if weight.split == "inputs" else len(weight.sources))
