"""Tensors of a GGUF file, read when they are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import gguf.quants
import torch
from gguf.constants import GGMLQuantizationType

from llmplug import CheckpointError

if TYPE_CHECKING:
    import mmap

    from llmplug_gguf.header import TensorInfo

_PLAIN = {
    GGMLQuantizationType.F64: torch.float64,
    GGMLQuantizationType.F32: torch.float32,
    GGMLQuantizationType.F16: torch.float16,
    GGMLQuantizationType.BF16: torch.bfloat16,
    GGMLQuantizationType.I8: torch.int8,
    GGMLQuantizationType.I16: torch.int16,
    GGMLQuantizationType.I32: torch.int32,
    GGMLQuantizationType.I64: torch.int64,
}


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
        stored = self._stored()
        plain = _PLAIN.get(self.info.type)
        if plain is not None:
            return self._in_order(stored.view(plain)).view(self.shape)
        try:
            numbers = gguf.quants.dequantize(stored.numpy(), self.info.type)
        except NotImplementedError as error:
            raise CheckpointError(
                f"tensor {self.info.name}: the block format {self.format} cannot be read"
            ) from error
        return self._in_order(torch.from_numpy(numbers)).view(self.shape)

    def raw(self) -> torch.Tensor:
        """Return the bytes as stored, uint8, (rows, bytes per row)."""
        return self._in_order(self._stored())

    def _stored(self) -> torch.Tensor:
        """Wrap the bytes of the file: a block never crosses rows, so rows are whole."""
        num_rows = 1
        for size in self.shape[:-1]:
            num_rows *= size
        info = self.info
        flat = torch.frombuffer(
            self.data, dtype=torch.uint8, count=info.num_bytes, offset=info.offset
        )
        return flat.view(num_rows, -1)

    def _in_order(self, rows: torch.Tensor) -> torch.Tensor:
        """Undo the order of rows within each head: pairs side by side become two halves."""
        if not self.permuted_heads:
            return rows
        is_vector = len(self.shape) == 1
        if is_vector:
            rows = rows.view(-1, 1)
        heads = rows.view(self.permuted_heads, -1, 2, rows.shape[-1])
        return heads.transpose(1, 2).reshape(rows.shape)
