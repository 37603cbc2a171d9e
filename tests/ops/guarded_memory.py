"""Memory with canaries around it: what a kernel reads or writes beyond its tensors shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch

_BORDER = 4096  # bytes on each side; a block that is not masked is rarely longer
_CANARY = 0xFF  # a NaN in every format of floats, -1 in whole numbers


class GuardedMemory:
    """Tensors between canaries. Fresh ones hold canaries too, until they are written."""

    def __init__(self) -> None:
        self._buffers: list[tuple[torch.Tensor, int]] = []

    def make(self, shape: Any, dtype: torch.dtype, device: Any = "cpu") -> torch.Tensor:
        num_bytes = torch.Size(shape).numel() * dtype.itemsize
        size = num_bytes + 2 * _BORDER
        buffer = torch.full((size,), _CANARY, dtype=torch.uint8, device=device)
        self._buffers.append((buffer, num_bytes))
        return buffer[_BORDER : _BORDER + num_bytes].view(dtype).view(shape)

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        guarded = self.make(tensor.shape, tensor.dtype, tensor.device)
        return guarded.copy_(tensor)

    def copy_all(self, example: Mapping[str, Any]) -> dict[str, Any]:
        return {k: self.copy(v) if isinstance(v, torch.Tensor) else v for k, v in example.items()}

    @contextmanager
    def fresh_tensors(self) -> Iterator[None]:
        """Let torch.empty, empty_like and zeros be guarded."""

        def empty(*sizes: Any, dtype: Any = torch.float32, device: Any = "cpu") -> torch.Tensor:
            return self.make(sizes if isinstance(sizes[0], int) else sizes[0], dtype, device)

        def empty_like(tensor: torch.Tensor) -> torch.Tensor:
            return self.make(tensor.shape, tensor.dtype, tensor.device)

        def zeros(*sizes: Any, **settings: Any) -> torch.Tensor:
            return empty(*sizes, **settings).zero_()

        with (
            patch.object(torch, "empty", empty),
            patch.object(torch, "empty_like", empty_like),
            patch.object(torch, "zeros", zeros),
        ):
            yield

    def check(self) -> None:
        assert self._buffers
        for buffer, num_bytes in self._buffers:
            assert (buffer[:_BORDER] == _CANARY).all(), "written before a tensor"
            assert (buffer[_BORDER + num_bytes :] == _CANARY).all(), "written behind a tensor"
