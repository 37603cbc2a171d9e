"""Numbers on their way between host and device, without waiting for either."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable


def send_array(values: array[int], device: torch.device) -> torch.Tensor:
    """Send int64 numbers to the device, in the order of its work; the host goes on at once.

    The twin of `llmplug.ops.send_to_device` for what is an array already.
    """
    if not values:
        return torch.empty(0, dtype=torch.int64, device=device)
    tensor = torch.frombuffer(values, dtype=torch.int64)
    if device.type == "cuda":  # torch keeps the page-locked copy until the device has read it
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class Fetcher:
    """Brings numbers back while the device goes on: on a stream of its own, where there are any."""

    def __init__(self, device: torch.device) -> None:
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def start(self, tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Begin to fetch a tensor that nobody changes; return what waits for it."""
        if self._stream is None:
            return lambda: tensor
        self._stream.wait_stream(torch.cuda.current_stream())
        fetched = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        has_come = torch.cuda.Event()  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._stream):
            fetched.copy_(tensor, non_blocking=True)
            has_come.record()
        tensor.record_stream(self._stream)

        def wait() -> torch.Tensor:
            has_come.synchronize()
            return fetched

        return wait
