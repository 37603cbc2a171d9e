"""The op `linear`: dense weights by torch's own products, weights in few bits by a kernel.

`few_rows.py` multiplies dense weights where it was found faster; `weight_formats.py` says what is
kept in few bits and packs it, `scaled_product.py` multiplies. A joined weight may have parts of
several formats; each writes its own columns of the result.

Legend: T packed tokens, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from llmplug import KernelInputError
from llmplug.ops import DenseLinear, DenseWeight
from llmplug_triton.few_rows import choose_split, multiply_few_rows
from llmplug_triton.scaled_product import ScaledWeight, multiply_scaled
from llmplug_triton.tensors import DTYPES, with_dense_rows
from llmplug_triton.weight_formats import choose_format, pack_source

if TYPE_CHECKING:
    from llmplug import LazyTensor
    from llmplug.ops import Tuning


@dataclass(frozen=True, slots=True)
class PackedLinear:
    """A joined weight of which at least one part is in few bits; parts follow by output."""

    parts: tuple[ScaledWeight | DenseWeight, ...]
    bias_O: torch.Tensor | None  # float32
    num_inputs: int

    @property
    def num_outputs(self) -> int:
        """Rows of the joined weight."""
        return sum(_count_outputs(part) for part in self.parts)

    @property
    def format(self) -> str:
        """Of the parts, each once."""
        return "+".join(dict.fromkeys(part.format for part in self.parts))

    @property
    def num_bytes(self) -> int:
        """Bytes in memory."""
        bias_bytes = 0 if self.bias_O is None else self.bias_O.nbytes
        return sum(part.num_bytes for part in self.parts) + bias_bytes


class Linear:
    """Twin of `llmplug.ops.DenseLinear`, which it asks for dense weights."""

    def __init__(self, tuning: Tuning | None = None) -> None:
        self._dense = DenseLinear()
        self._tuning = tuning

    def pack(
        self,
        sources: Sequence[LazyTensor],
        bias_O: torch.Tensor | None,
        *,
        device: torch.device,
        dtype: torch.dtype,
        format: str = "auto",  # noqa: A002 - the word of checkpoints, configs and reports
    ) -> DenseWeight | PackedLinear:
        """Read the sources and join them, each kept as `choose_format` says.

        Raises:
            KernelInputError: a format that is not served, or shapes that do not join.
        """
        shapes = [tuple(source.shape) for source in sources]
        if not shapes or any(len(shape) != 2 or shape[1] != shapes[0][1] for shape in shapes):
            raise KernelInputError(f"cannot join weights of shapes {shapes} along dimension 0")
        names = [choose_format(source, format) for source in sources]
        if not any(names):
            return self._dense.pack(sources, bias_O, device=device, dtype=dtype, format=format)
        num_outputs = sum(shape[0] for shape in shapes)
        if bias_O is not None and tuple(bias_O.shape) != (num_outputs,):
            raise KernelInputError(f"a bias of {tuple(bias_O.shape)} for {num_outputs} outputs")
        parts = tuple(
            self._dense.pack([source], None, device=device, dtype=dtype)
            if name is None
            else pack_source(source, name, device)
            for source, name in zip(sources, names, strict=True)
        )
        bias_O = None if bias_O is None else bias_O.to(device, torch.float32)
        return PackedLinear(_join_alike(parts), bias_O, shapes[0][1])

    def __call__(self, x_TI: torch.Tensor, packed: DenseWeight | PackedLinear) -> torch.Tensor:
        """Return y_TO = x_TI @ weight.T + bias, in the dtype of x_TI.

        Raises:
            KernelInputError: x is no matrix of the weight's width, or of another dtype than
                float32, bfloat16 and float16.
        """
        if isinstance(packed, DenseWeight):
            return self._multiply_dense(x_TI, packed)
        if x_TI.dim() != 2 or x_TI.shape[1] != packed.num_inputs or x_TI.dtype not in DTYPES:
            raise KernelInputError(
                f"inputs of {tuple(x_TI.shape)} in {x_TI.dtype} for a weight of "
                f"({packed.num_outputs}, {packed.num_inputs})"
            )
        x_TI = with_dense_rows(x_TI)
        shape = (x_TI.shape[0], packed.num_outputs)
        y_TO = torch.empty(shape, device=x_TI.device, dtype=x_TI.dtype)
        first = 0
        for part in packed.parts:
            last = first + _count_outputs(part)
            bias_O = None if packed.bias_O is None else packed.bias_O[first:last]
            if isinstance(part, ScaledWeight):
                multiply_scaled(x_TI, part, bias_O, y_TO[:, first:last], self._tuning)
            else:
                bias_O = None if bias_O is None else bias_O.to(x_TI.dtype)
                y_TO[:, first:last] = self._multiply_dense(
                    x_TI, DenseWeight(part.weight_OI, bias_O, part.format)
                )
            first = last
        return y_TO

    def _multiply_dense(self, x_TI: torch.Tensor, packed: DenseWeight) -> torch.Tensor:
        sizes = choose_split(x_TI, packed, self._tuning)
        return (
            self._dense(x_TI, packed) if sizes is None else multiply_few_rows(x_TI, packed, sizes)
        )


def _count_outputs(part: ScaledWeight | DenseWeight) -> int:
    return part.num_outputs if isinstance(part, ScaledWeight) else part.weight_OI.shape[0]


def _join_alike(
    parts: Sequence[ScaledWeight | DenseWeight],
) -> tuple[ScaledWeight | DenseWeight, ...]:
    """Join neighbours of one format, so that they are one launch.

    Blocks of several outputs share a scale only within one part: those stay apart unless they end
    where a block does.
    """
    joined: list[ScaledWeight | DenseWeight] = []
    for part in parts:
        last = joined[-1] if joined else None
        if isinstance(last, ScaledWeight) and isinstance(part, ScaledWeight):
            whole = last.join(part)
            if whole is not None:
                joined[-1] = whole
                continue
        joined.append(part)
    return tuple(joined)
