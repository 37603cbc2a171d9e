"""Takes the time of calls on a device, as a kernel in a model finds it: with cold caches."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Protocol

import torch

# Written before each call: five times the L2 of an H200, so that inputs come from memory.
_FLUSH_BYTES = 256 << 20
_NUM_CALLS = 30
_NUM_WARM_CALLS = 3  # compile, and bring clocks up


class Stopwatch(Protocol):
    """Takes the time of calls on one device."""

    def measure_s(self, call: Callable[[], object]) -> float:
        """Return the median seconds of a call, its work on the device included."""


class CudaStopwatch:
    """Events on the stream: what the host does beside does not count."""

    def __init__(self, device: torch.device) -> None:
        self._flush = torch.empty(_FLUSH_BYTES, dtype=torch.uint8, device=device)

    def measure_s(self, call: Callable[[], object]) -> float:
        """Return the median seconds between two events around the call."""
        for _ in range(_NUM_WARM_CALLS):
            call()
        events = []
        for _ in range(_NUM_CALLS):
            self._flush.zero_()
            pair = [torch.cuda.Event(enable_timing=True) for _ in range(2)]  # type: ignore[no-untyped-call]
            pair[0].record()
            call()
            pair[1].record()
            events.append(pair)
        torch.cuda.synchronize()
        return float(statistics.median(start.elapsed_time(end) for start, end in events)) / 1e3


class HostStopwatch:
    """For CPUs, which have done the work when a call returns; one call, for trying alone."""

    def measure_s(self, call: Callable[[], object]) -> float:
        """Return the seconds of one call."""
        start = time.perf_counter()
        call()
        return time.perf_counter() - start


def make_stopwatch(device: torch.device) -> Stopwatch:
    """Make the stopwatch of a kind of device."""
    return CudaStopwatch(device) if device.type == "cuda" else HostStopwatch()
