"""The device: which, how time is taken on it, and what it can do right now."""

from __future__ import annotations

import os
import statistics
import sys
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

NO_DEVICE_STATUS = 2
_COPY_BYTES = 2 << 30
_GEMM_WIDTH = 8192
# Written before each call, so that it finds its inputs in memory: five times an H200's L2.
_FLUSH_BYTES = 256 << 20


class Clock(Protocol):
    """Takes the time of work on one device."""

    def measure_s(self, call: Callable[[], object]) -> float:
        """Return the seconds of one call, its work on the device included."""

    def wait(self) -> None:
        """Wait until the device has nothing to do."""


class CudaClock:
    """Events on the stream: what the host does beside does not count."""

    def measure_s(self, call: Callable[[], object]) -> float:
        """Return the seconds between two events around the call."""
        start, end = (
            torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            for _ in range(2)
        )
        start.record()
        call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3

    def wait(self) -> None:
        """Wait for all streams."""
        torch.cuda.synchronize()


class HostClock:
    """For CPUs, which have done the work when a call returns."""

    def measure_s(self, call: Callable[[], object]) -> float:
        """Return the seconds of the call."""
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    def wait(self) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What the device reached in this run."""

    copy_bytes_s: float  # read and written
    product_flops: float

    def least_s(self, num_bytes: float, num_flops: float) -> float:
        """Return the roofline: no work of so many bytes and operations takes less."""
        return max(num_bytes / self.copy_bytes_s, num_flops / self.product_flops)


@dataclass(frozen=True, slots=True)
class Bench:
    """A device to measure on.

    Attributes:
        is_tiny: shapes are small: to try the programs, not to measure.
    """

    device: torch.device
    dtype: torch.dtype
    is_tiny: bool

    @property
    def clock(self) -> Clock:
        """Of this kind of device."""
        return CudaClock() if self.device.type == "cuda" else HostClock()

    def measure_s(self, call: Callable[[], object], num_calls: int = 30) -> float:
        """Return the median seconds of a call that finds its inputs outside the caches."""
        num_calls = 3 if self.is_tiny else num_calls
        flush = torch.empty(1 << 10 if self.is_tiny else _FLUSH_BYTES, dtype=torch.uint8)
        flush = flush.to(self.device)
        for _ in range(2):  # compiles
            call()
        clock, seconds = self.clock, []
        for _ in range(num_calls):
            flush.zero_()
            seconds.append(clock.measure_s(call))
        return statistics.median(seconds)

    def probe(self) -> Ceilings:
        """Measure a large copy and a large product."""
        num_bytes = 1 << 20 if self.is_tiny else _COPY_BYTES
        source = torch.ones(num_bytes // 4, device=self.device)
        target = torch.empty_like(source)
        copy_s = self.measure_s(partial(target.copy_, source))
        width = 128 if self.is_tiny else _GEMM_WIDTH
        a, b = (torch.randn(width, width, device=self.device, dtype=self.dtype) for _ in range(2))
        product_s = self.measure_s(lambda: a @ b)
        return Ceilings(2 * num_bytes / copy_s, 2 * width**3 / product_s)

    def describe(self) -> dict[str, Any]:
        """Say what numbers of this device come from."""
        from importlib.metadata import PackageNotFoundError, version

        versions = {"torch": str(torch.__version__)}
        for name in ("triton", "transformers"):
            try:
                versions[name] = version(name)
            except PackageNotFoundError:
                versions[name] = "none"
        name = "cpu"
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
            versions["cuda"] = str(torch.version.cuda)
        return {"device": name, "dtype": str(self.dtype), "tiny": self.is_tiny, **versions}


def open_bench(device: str, *, is_tiny: bool) -> Bench:
    """Take a device; without a GPU say so in one line and end with status 2."""
    if device == "cuda" and not torch.cuda.is_available():
        print("no NVIDIA GPU that torch can use; try --device cpu --tiny", file=sys.stderr)
        raise SystemExit(NO_DEVICE_STATUS)
    if device == "cpu":  # read when kernels are imported
        os.environ.setdefault("TRITON_INTERPRET", "1")
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    return Bench(torch.device(device), dtype, is_tiny)
