"""What the machine can do right now: a neighbour on a shared machine can halve it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

BYTES_READ = 512 * 2**20  # far above any cache
ROW = 4096  # numbers; a matrix-vector product reads faster than a sum on some machines
MATRIX_SIZES = (1024, 2048)  # on a CPU; eight times as large on a GPU
PROBE_S = 1.5  # of each try, to outlast a neighbour's burst


@dataclass(frozen=True, slots=True)
class Probe:
    """Best of all tries, on all cores."""

    bandwidth_gb_s: float  # read only, 1e9 bytes
    gemm_gflop_s: float  # float32 on a CPU, bfloat16 on a GPU

    def better(self, other: Probe) -> Probe:
        """Return the best of both."""
        return Probe(
            max(self.bandwidth_gb_s, other.bandwidth_gb_s),
            max(self.gemm_gflop_s, other.gemm_gflop_s),
        )


def best_s(run: Callable[[], object], finish: Callable[[], object]) -> float:
    """Return the least of the timings that fit into PROBE_S, in seconds; at least two."""
    times: list[float] = []
    deadline = time.perf_counter() + PROBE_S
    while len(times) < 2 or time.perf_counter() < deadline:
        started = time.perf_counter()
        run()
        finish()
        times.append(time.perf_counter() - started)
    return min(times)


def probe(device: str = "cpu") -> Probe:
    """Measure; takes about six seconds. No server may be at work beside it."""
    import torch

    is_gpu = device.startswith("cuda")
    finish = torch.cuda.synchronize if is_gpu else (lambda: None)
    scale = 16 if is_gpu else 1
    numbers = torch.ones(scale * BYTES_READ // 4, dtype=torch.float32, device=device)
    rows, vector = numbers.view(-1, ROW), torch.ones(ROW, device=device)
    read_s = min(best_s(numbers.sum, finish), best_s(lambda: rows @ vector, finish))

    dtype = torch.bfloat16 if is_gpu else torch.float32
    flop_s = 0.0
    for size in MATRIX_SIZES:
        width = size * (8 if is_gpu else 1)
        left, right = torch.randn(2, width, width, device=device).to(dtype)
        gemm_s = best_s(lambda a=left, b=right: a @ b, finish)  # type: ignore[misc]
        flop_s = max(flop_s, 2 * width**3 / gemm_s)
    return Probe(
        bandwidth_gb_s=numbers.numel() * 4 / read_s / 1e9,
        gemm_gflop_s=flop_s / 1e9,
    )
