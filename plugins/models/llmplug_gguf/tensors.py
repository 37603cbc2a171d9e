"""Tensors of a GGUF file, read when they are asked for.

torch is imported by the first that is read: a server opens files too, and needs no numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import gguf.quants
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from llmplug import CheckpointError

if TYPE_CHECKING:
    import mmap

    import torch

    from llmplug_gguf.header import TensorInfo

_PLAIN = {  # torch's names
    GGMLQuantizationType.F64: "float64",
    GGMLQuantizationType.F32: "float32",
    GGMLQuantizationType.F16: "float16",
    GGMLQuantizationType.BF16: "bfloat16",
    GGMLQuantizationType.I8: "int8",
    GGMLQuantizationType.I16: "int16",
    GGMLQuantizationType.I32: "int32",
    GGMLQuantizationType.I64: "int64",
}
# Numbers that the gguf package is asked for at a time. Asked for an embedding of 28 million, it
# holds two copies of it: 0.14 s of CPU and 220 MiB, against 0.06 s and 110 MiB (2 cores of an
# EPYC). More at a time no longer fit the second-level cache.
_AT_A_TIME = 1 << 16


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor or a part of one; a `llmplug.LazyTensor` and a `llmplug.SliceableTensor`.

    Plain formats are views of the mapped file, without a copy.

    Attributes:
        name: GGUF's, for messages.
        permuted_heads: where GGUF keeps the rows of each head in another order than the Hugging
            Face checkpoint, the number of heads; the order is put right. 0: it is the same.
        columns: where those of this part begin and end; None: it has all.
    """

    info: TensorInfo
    data: mmap.mmap
    permuted_heads: int = 0
    columns: tuple[int, int] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """In torch order."""
        if self.columns is None:
            return self.info.shape
        start, end = self.columns
        return (self.info.shape[0], end - start)

    @property
    def format(self) -> str:
        """GGUF's name of the type: `F32`, `Q4_1`, ..."""
        return self.info.type.name

    @property
    def num_bytes(self) -> int:
        """Bytes in the file."""
        if self.columns is None:
            return self.info.num_bytes
        return self.info.num_bytes * self.shape[1] // self.info.shape[1]

    def load(self) -> torch.Tensor:
        """Read it: float formats as stored, blocks dequantised to float32.

        Raises:
            CheckpointError: a block format that the gguf package cannot read.
        """
        import torch

        stored = self._stored()
        plain = _PLAIN.get(self.info.type)
        if plain is not None:
            return self._in_order(stored.view(getattr(torch, plain))).view(self.shape)
        return self._in_order(torch.from_numpy(self._dequantise(stored.numpy()))).view(self.shape)

    def raw(self) -> torch.Tensor:
        """Return the bytes as stored, uint8, (rows, bytes per row)."""
        return self._in_order(self._stored())

    def slice(self, dimension: int, start: int, end: int) -> GgufTensor:
        """Return rows or columns, as they lie in the file.

        Raises:
            CheckpointError: a block would be cut, or a head whose rows are in another order.
        """
        block = GGML_QUANT_SIZES[self.info.type][0] if dimension == len(self.shape) - 1 else 1
        head = self.shape[0] // self.permuted_heads if self.permuted_heads and not dimension else 1
        for size, what in ((block, f"a {self.format} block"), (head, "a head")):
            if start % size or end % size:
                raise CheckpointError(f"between {start} and {end} {what} of {size} would be cut")
        if dimension == 1:
            first = 0 if self.columns is None else self.columns[0]
            return replace(self, columns=(first + start, first + end))
        num_bytes, num_rows = self.info.num_bytes, self.info.shape[0]
        info = replace(
            self.info,
            shape=(end - start, *self.info.shape[1:]),
            offset=self.info.offset + num_bytes * start // num_rows,
            num_bytes=num_bytes * (end - start) // num_rows,
        )
        heads = self.permuted_heads and (end - start) // head
        return replace(self, info=info, permuted_heads=heads)

    def _dequantise(self, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        numbers = np.empty((rows.shape[0], self.shape[-1]), np.float32)
        step = max(1, _AT_A_TIME // self.shape[-1])
        for first in range(0, rows.shape[0], step):
            # One long row: the package takes 16 at a time, at some 20 us a time.
            blocks = rows[first : first + step].reshape(1, -1)
            try:
                part = gguf.quants.dequantize(blocks, self.info.type)
            except NotImplementedError as error:
                raise CheckpointError(
                    f"tensor {self.info.name}: the block format {self.format} cannot be read"
                ) from error
            numbers[first : first + step] = part.reshape(-1, self.shape[-1])
        return numbers

    def _stored(self) -> torch.Tensor:
        """Wrap the bytes of the file: a block never crosses rows, so rows are whole."""
        import torch

        info = self.info
        num_rows = math.prod(info.shape[:-1])
        flat = torch.frombuffer(
            self.data, dtype=torch.uint8, count=info.num_bytes, offset=info.offset
        )
        rows = flat.view(num_rows, -1)
        if self.columns is None:
            return rows
        first, last = (rows.shape[1] * each // info.shape[1] for each in self.columns)
        return rows[:, first:last].contiguous()

    def _in_order(self, rows: torch.Tensor) -> torch.Tensor:
        """Undo the order of rows within each head: pairs side by side become two halves."""
        import torch

        if not self.permuted_heads:
            return rows
        is_vector = len(self.shape) == 1
        if is_vector:
            rows = rows.view(-1, 1)
        # numpy copies whole rows; torch goes element by element, 600 times as long with bytes.
        data = rows.view(torch.uint8).numpy()
        heads = data.reshape(self.permuted_heads, -1, 2, data.shape[-1])
        ordered = heads.swapaxes(1, 2).reshape(data.shape)
        return torch.from_numpy(ordered).view(rows.dtype)
