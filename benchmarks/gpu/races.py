"""Whether programs that run at once see what each other has stored: the same bits, again and again.

Decodes are cut into chunks, and the last program that is done with one of a sequence joins the
parts of all. One that joined too early would read memory that is full of NaN. On a CPU programs run
one after the other, which shows nothing but that this file works.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from benchmarks.gpu.kernels import prepare_decode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.gpu.device import Bench
    from llmplug import KernelSpec

PROGRAMS = (3, 1, 2, 4, 7)  # of each multiprocessor


class ManyPrograms:
    """A tuning that says how many programs there are, and nothing else."""

    def __init__(self, count: int) -> None:
        self._count = count

    def find_sizes(self, tunable: str, dtype: torch.dtype, shape: Any, default: Any) -> Any:
        """Return the default, of so many programs where their number is free."""
        return {**default, "PROGRAMS": self._count} if "PROGRAMS" in default else default


def find_races(spec: KernelSpec, bench: Bench, num_calls: int) -> Iterator[str]:
    """Yield numbers of programs with which attention gives other bits, or gives them at times."""
    load: Any = spec.load
    contexts = (257,) if bench.device.type == "cpu" else (32768, *(700,) * 31)
    first = None
    for count in PROGRAMS:
        torch.manual_seed(1)
        attend = prepare_decode(bench, load(ManyPrograms(count)), contexts)
        results = [attend() for _ in range(num_calls)]
        first = results[0] if first is None else first
        num_unlike = sum(not torch.equal(first, result) for result in results)
        if num_unlike or first.isnan().any():
            yield f"{spec.op} with {count} programs: {num_unlike} of {num_calls} calls differ"
