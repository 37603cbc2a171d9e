"""Weights: from a checkpoint's files to what a model is built from.

Every tensor of the checkpoint is accounted for: read by the table, on the ignored list, or a scale
of a cache (`llmplug.cache_scales`). A missing, extra or wrongly shaped tensor names itself and
stops the start.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch

from llmplug.cache_scales import is_scale
from llmplug.engine.split import split_weights, take_share
from llmplug.errors import CheckpointError
from llmplug.ops.split_kernels import GatheredWeight, SplitTable, SummedWeight

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmplug.ops import KernelTable
    from llmplug.specs import Checkpoint, LazyTensor, Progress, Weight

_NAMES_SHOWN = 5  # of missing or extra tensors, in a message


def load_weights(
    checkpoint: Checkpoint,
    table: Sequence[Weight],
    ignored: Sequence[str],
    num_layers: int,
    ops: KernelTable,
    *,
    device: torch.device,
    dtype: torch.dtype,
    progress: Progress,
    linear_format: str = "auto",
    rank: int = 0,
    num_ranks: int = 1,
) -> dict[str, Any]:
    """Read all weights of a model, or one rank's share of them.

    Args:
        table: the model's weights; `{layer}` is filled in for each of `num_layers`.
        ignored: names of tensors that may be there and are not read; `{layer}` works.
        dtype: of what is computed with; float weights are cast to it.
        progress: told the bytes read so far, and in all.
        linear_format: how linear weights are kept, for `ops.linear.pack`.
        rank: of `num_ranks` that compute the model together; `ops` is a table of
            `ops.split_kernels` where they are several.

    Returns:
        By `Weight.name`: packed weights for linears, tensors on `device` for the others.

    Raises:
        CheckpointError: a tensor is missing, extra or of another shape, or cannot be divided.
        KernelInputError: the kernel does not serve `linear_format`.
    """
    weights = list_weights(table, num_layers, checkpoint.tensors)
    _refuse_missing(weights, checkpoint)
    _refuse_extra(weights, ignored, num_layers, checkpoint)
    for weight in weights:
        _check_shapes(weight, checkpoint)

    tensors = dict(checkpoint.tensors)
    if num_ranks > 1:
        weights, tensors = split_weights(weights, tensors, rank, num_ranks)

    total = sum(tensors[name].num_bytes for w in weights for name in _names(w))
    done = 0
    progress("weights", done, total)
    loaded: dict[str, Any] = {}
    for weight in weights:
        if weight.kind == "linear":
            packed = ops.linear.pack(
                [tensors[name] for name in weight.sources],
                _read(weight.bias, tensors, device, dtype) if weight.bias else None,
                device=device,
                dtype=dtype,
                format=linear_format,
            )
        else:
            packed = _read(weight.sources, tensors, device, dtype)
            if weight.kind == "embedding" and len(weight.sources) == 1:
                # An output head tied to it is packed from memory, without a copy where it can be.
                name = weight.sources[0]
                tensors[name] = _ReadTensor(tensors[name], packed)
        loaded[weight.name] = _note_split(weight, packed, checkpoint, rank, num_ranks)
        done += sum(tensors[name].num_bytes for name in _names(weight))
        progress("weights", done, total)
    return loaded


def list_weights(
    table: Sequence[Weight], num_layers: int, tensors: Mapping[str, LazyTensor]
) -> list[Weight]:
    """Return a table with its layers filled in, and what is tied read from where it is."""
    return _resolve_ties(_fill_in_layers(table, num_layers), tensors)


def find_unread(
    weights: Sequence[Weight],
    ignored: Sequence[str],
    num_layers: int,
    tensors: Mapping[str, LazyTensor],
) -> set[str]:
    """Return the names of tensors that a model has no use for: no weight, nor ignored.

    Args:
        weights: as `list_weights` returns them.
    """
    known = {name for weight in weights for name in _names(weight)}
    known |= {name for layer in range(num_layers) for name in _numbered(ignored, layer)}
    return set(tensors) - known


@dataclasses.dataclass(frozen=True, slots=True)
class _ReadTensor:
    """A lazy tensor whose numbers are in memory already; its stored bytes stay in the file."""

    source: LazyTensor
    tensor: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    @property
    def format(self) -> str:
        return self.source.format

    @property
    def num_bytes(self) -> int:
        return self.source.num_bytes

    def load(self) -> torch.Tensor:
        return self.tensor

    def raw(self) -> torch.Tensor:
        return self.source.raw()


def _note_split(
    weight: Weight, part: Any, checkpoint: Checkpoint, rank: int, num_ranks: int
) -> Any:
    """Say on a rank's part of a weight how the parts of all ranks come together."""
    if num_ranks == 1 or weight.split in {None, "outputs"}:
        return part
    if weight.split == "inputs":
        return SummedWeight(part)
    vocab_size = checkpoint.tensors[weight.sources[0]].shape[0]
    shares = [take_share(vocab_size, 1, each, num_ranks) for each in range(num_ranks)]
    if weight.kind == "embedding":
        return SplitTable(part, shares[rank][0])
    return GatheredWeight(part, tuple(end - start for start, end in shares))


def _names(weight: Weight) -> tuple[str, ...]:
    return weight.sources + weight.bias


def _fill_in_layers(table: Sequence[Weight], num_layers: int) -> list[Weight]:
    """Repeat entries that speak of `{layer}` for each layer, in the table's order per layer."""
    weights = []
    for weight in table:
        if "{layer}" not in weight.name:
            weights.append(weight)
            continue
        for layer in range(num_layers):
            weights.append(
                dataclasses.replace(
                    weight,
                    name=weight.name.format(layer=layer),
                    sources=_numbered(weight.sources, layer),
                    bias=_numbered(weight.bias, layer),
                    tied_to=_numbered(weight.tied_to, layer),
                )
            )
    return weights


def _numbered(names: Sequence[str], layer: int) -> tuple[str, ...]:
    return tuple(name.format(layer=layer) for name in names)


def _resolve_ties(weights: list[Weight], tensors: Mapping[str, LazyTensor]) -> list[Weight]:
    """Read `tied_to` where none of the sources is there."""
    return [
        dataclasses.replace(weight, sources=weight.tied_to)
        if weight.tied_to and not any(name in tensors for name in weight.sources)
        else weight
        for weight in weights
    ]


def _refuse_missing(weights: list[Weight], checkpoint: Checkpoint) -> None:
    missing = [name for w in weights for name in _names(w) if name not in checkpoint.tensors]
    if missing:
        raise CheckpointError(
            f"{checkpoint.path}: the checkpoint lacks {_listed(missing)}; "
            "its files are incomplete, or its config.json describes another model"
        )


def _refuse_extra(
    weights: list[Weight], ignored: Sequence[str], num_layers: int, checkpoint: Checkpoint
) -> None:
    unread = find_unread(weights, ignored, num_layers, checkpoint.tensors)
    extra = sorted(name for name in unread if not is_scale(name))
    if extra:
        raise CheckpointError(
            f"{checkpoint.path}: the model has no use for {_listed(extra)}; a tensor left unread "
            "would change the result, so the checkpoint is refused"
        )


def _check_shapes(weight: Weight, checkpoint: Checkpoint) -> None:
    """Compare the file's shapes with those that the config promises."""
    for names, has_columns in ((weight.sources, True), (weight.bias, False)):
        if not names or not weight.rows:
            continue
        for name, rows in zip(names, weight.rows, strict=True):
            columns = weight.columns if has_columns else None
            wanted = (rows,) if columns is None else (rows, columns)
            shape = tuple(checkpoint.tensors[name].shape)
            if shape != wanted:
                raise CheckpointError(
                    f"{checkpoint.path}: {name} has shape {shape}, but config.json "
                    f"promises {wanted}"
                )


def _read(
    names: Sequence[str],
    tensors: Mapping[str, LazyTensor],
    device: torch.device,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Read tensors and join them along dimension 0."""
    parts = []
    for name in names:
        part = tensors[name].load()
        if not part.is_floating_point():
            raise CheckpointError(f"{name} holds {part.dtype}, which is no float format")
        parts.append(part.to(device, dtype))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMES_SHOWN])
    more = len(names) - _NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
