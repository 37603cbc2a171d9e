"""What the machine can do right now: a neighbour on a shared machine can halve it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

BYTES_READ = 512 * 2**20  # far above any cache
MATRIX_SIZE = 1024  # fits the caches of a CPU, fills a GPU
REPEATS = 7


@dataclass(frozen=True, slots=True)
class Probe:
    """Best of some tries, on all cores."""

    bandwidth_gb_s: float  # read only, 1e9 bytes
    gemm_gflop_s: float  # float32 on a CPU, bfloat16 on a GPU


def best_s(run: Callable[[], object], finish: Callable[[], object]) -> float:
    """Return the least of some timings, in seconds; the first is not counted."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        run()
        finish()
        times.append(time.perf_counter() - started)
    return min(times[1:])


def probe(device: str = "cpu") -> Probe:
    """Measure; takes about two seconds. No server may be at work beside it."""
    import torch

    is_gpu = device.startswith("cuda")
    finish = torch.cuda.synchronize if is_gpu else (lambda: None)
    scale = 16 if is_gpu else 1
    numbers = torch.ones(scale * BYTES_READ // 4, dtype=torch.float32, device=device)
    read_s = best_s(numbers.sum, finish)

    size = MATRIX_SIZE * (8 if is_gpu else 1)
    dtype = torch.bfloat16 if is_gpu else torch.float32
    left = torch.randn(size, size, device=device).to(dtype)
    right = torch.randn(size, size, device=device).to(dtype)
    gemm_s = best_s(lambda: left @ right, finish)
    return Probe(
        bandwidth_gb_s=numbers.numel() * 4 / read_s / 1e9,
        gemm_gflop_s=2 * size**3 / gemm_s / 1e9,
    )
