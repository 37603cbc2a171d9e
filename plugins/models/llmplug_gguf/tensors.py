"""Tensors of a GGUF file, read when they are asked for.

torch is imported by the first that is read: a server opens files too, and needs no numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gguf.quants
import numpy as np
from gguf.constants import GGMLQuantizationType

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
    """One tensor; implements `llmplug.LazyTensor`.

    Plain formats are views of the mapped file, without a copy.

    Attributes:
        name: GGUF's, for messages.
        permuted_heads: where GGUF keeps the rows of each head in another order than the Hugging
            Face checkpoint, the number of heads; the order is put right. 0: it is the same.
    """

    info: TensorInfo
    data: mmap.mmap
    permuted_heads: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """In torch order."""
        return self.info.shape

    @property
    def format(self) -> str:
        """GGUF's name of the type: `F32`, `Q4_1`, ..."""
        return self.info.type.name

    @property
    def num_bytes(self) -> int:
        """Bytes in the file."""
        return self.info.num_bytes

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

        num_rows = math.prod(self.shape[:-1])
        info = self.info
        flat = torch.frombuffer(
            self.data, dtype=torch.uint8, count=info.num_bytes, offset=info.offset
        )
        return flat.view(num_rows, -1)

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
