"""Memory with canaries around it: what a kernel reads or writes beyond its tensors shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch

from llmplug.testing.expect import expect

_BORDER = 4096  # bytes on each side; a block that is not masked is rarely longer
_CANARY = 0xFF  # a NaN in every format of floats, -1 in whole numbers


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Fill fresh memory with NaN, so that an output element never written to shows."""
    was_on = torch.are_deterministic_algorithms_enabled()
    settings: Any = torch.utils.deterministic
    is_filled = settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    settings.fill_uninitialized_memory = True
    try:
        yield
    finally:
        settings.fill_uninitialized_memory = is_filled
        torch.use_deterministic_algorithms(was_on)


class GuardedMemory:
    """Tensors between canaries. Fresh ones hold canaries too, until they are written."""

    def __init__(self) -> None:
        self._buffers: list[tuple[torch.Tensor, int]] = []

    def make(self, shape: Any, dtype: torch.dtype, device: Any = "cpu") -> torch.Tensor:
        """Return a tensor between two borders, full of canaries."""
        num_bytes = torch.Size(shape).numel() * dtype.itemsize
        size = num_bytes + 2 * _BORDER
        buffer = torch.full((size,), _CANARY, dtype=torch.uint8, device=device)
        self._buffers.append((buffer, num_bytes))
        return buffer[_BORDER : _BORDER + num_bytes].view(dtype).view(shape)

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a guarded copy."""
        guarded = self.make(tensor.shape, tensor.dtype, tensor.device)
        return guarded.copy_(tensor)

    def copy_all(self, example: Mapping[str, Any]) -> dict[str, Any]:
        """Return an example whose tensors are guarded."""
        return {k: self.copy(v) if isinstance(v, torch.Tensor) else v for k, v in example.items()}

    @contextmanager
    def fresh_tensors(self) -> Iterator[None]:
        """Let torch.empty, empty_like and zeros be guarded, called in the plain way."""

        def guard(fresh: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
            def make(*sizes: Any, **settings: Any) -> torch.Tensor:
                plain = fresh(*sizes, **settings)
                if settings.keys() - {"dtype", "device"} or not plain.is_contiguous():
                    return plain
                return self.make(plain.shape, plain.dtype, plain.device)

            return make

        zeros = guard(torch.zeros)

        with (
            patch.object(torch, "empty", guard(torch.empty)),
            patch.object(torch, "empty_like", guard(torch.empty_like)),
            patch.object(torch, "zeros", lambda *sizes, **how: zeros(*sizes, **how).zero_()),
        ):
            yield

    def check(self) -> None:
        """Raise AssertionError where a border was written to."""
        for buffer, num_bytes in self._buffers:
            before, behind = buffer[:_BORDER], buffer[_BORDER + num_bytes :]
            expect(bool((before == _CANARY).all()), "written before a tensor: mask the stores")
            expect(bool((behind == _CANARY).all()), "written behind a tensor: mask the stores")
