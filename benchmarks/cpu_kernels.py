"""Speed of the CPU's linear and attention kernels, beside what the machine can do right now.

    python benchmarks/cpu_kernels.py [--threads 2] [--seconds 0.3] [--rows 1 8 32 128]

Weights are kept in enough copies to lie beyond the caches. Each figure is the best of many calls;
the bandwidth probe runs before each shape, because a virtual machine's share changes by the minute.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from llmplug.ops import AttentionBatch, LoadedTensor
from llmplug_cpu.attention import GroupAttention
from llmplug_cpu.linear import PackedLinear, PanelLinear

if TYPE_CHECKING:
    from llmplug import LazyTensor

CPU = torch.device("cpu")
FORMATS = ("Q4_0", "Q4_1", "Q8_0", "int8", "bfloat16", "float32")
SHAPES = ((960, 576), (3072, 576), (576, 1536), (49152, 576))  # outputs x inputs, a 135M model
BLOCK_BYTES = {"Q4_0": 18, "Q4_1": 20, "Q8_0": 34}
BEYOND_CACHES_BYTES = 128 << 20


@dataclass(frozen=True)
class RandomBlocks:
    """A quantised weight of random blocks whose scales are small."""

    format: str
    shape: tuple[int, int]

    @property
    def num_bytes(self) -> int:
        """Bytes of the blocks."""
        return self.shape[0] * self.shape[1] // 32 * BLOCK_BYTES[self.format]

    def load(self) -> torch.Tensor:
        """Refuse: only the bytes are made up."""
        raise NotImplementedError("kernels read the blocks")

    def raw(self) -> torch.Tensor:
        """Make (rows, bytes per row) up."""
        shape = (self.shape[0], self.shape[1] // 32, BLOCK_BYTES[self.format])
        blocks = torch.randint(256, shape, dtype=torch.uint8)
        num_scales = 2 if self.format == "Q4_1" else 1
        scales = torch.full((*shape[:2], num_scales), 0.01, dtype=torch.float16)
        blocks[..., : 2 * num_scales] = scales.view(torch.uint8)
        return blocks.reshape(shape[0], -1)


def measure_best_s(call: Callable[[], object], seconds: float) -> float:
    """Return the shortest of the calls that fit in `seconds`."""
    call()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def probe_bandwidth(seconds: float) -> float:
    """Return GB/s of reading 256 MiB with all threads."""
    numbers = torch.ones(64 << 20)
    return numbers.nbytes / measure_best_s(numbers.sum, seconds) / 1e9


def pack_copies(linear: PanelLinear, name: str, outputs: int, inputs: int) -> list[PackedLinear]:
    """Pack one random weight often enough that the copies do not fit in the caches."""
    source: LazyTensor = LoadedTensor(torch.randn(outputs, inputs))
    wanted = name
    if name in BLOCK_BYTES:
        source, wanted = RandomBlocks(name, (outputs, inputs)), "int4"

    def pack() -> PackedLinear:
        return linear.pack([source], None, device=CPU, dtype=torch.float32, format=wanted)

    first = pack()
    return [first, *(pack() for _ in range(BEYOND_CACHES_BYTES // first.num_bytes))]


def run_linear(rows: list[int], seconds: float) -> None:
    """Print time, bandwidth and operations for each shape, format and number of tokens."""
    linear = PanelLinear()
    for outputs, inputs in SHAPES:
        print(f"\nlinear {outputs} x {inputs}; probe {probe_bandwidth(seconds):.1f} GB/s")
        for name in FORMATS:
            copies = pack_copies(linear, name, outputs, inputs)
            for num_tokens in rows:
                x_TI, next_copy = torch.randn(num_tokens, inputs), iter(copies * 100_000)

                def multiply(
                    x_TI: torch.Tensor = x_TI, copies: Iterator[PackedLinear] = next_copy
                ) -> object:
                    return linear(x_TI, next(copies))

                best_s = measure_best_s(multiply, seconds)
                gbytes = copies[0].num_bytes / best_s / 1e9
                gops = 2 * num_tokens * outputs * inputs / best_s / 1e9
                print(
                    f"  {name:9} T={num_tokens:<4} {best_s * 1e6:9.1f} us "
                    f"{gbytes:6.1f} GB/s {gops:6.1f} GOP/s"
                )


def run_attention(seconds: float) -> None:
    """Print time and bandwidth of decode over 1 to 32 sequences of 1024 tokens."""
    attention = GroupAttention()
    pages, heads, kv_heads, width = 64, 9, 3, 64
    print(f"\nattention, 1024 tokens, 9 / 3 heads of 64; probe {probe_bandwidth(seconds):.1f} GB/s")
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for sequences in (1, 8, 32):
            cache = attention.allocate(
                pages * sequences, 16, kv_heads, width, device=CPU, dtype=dtype
            )
            cache.key.fill_(0.01)
            cache.value.fill_(0.01)
            batch = AttentionBatch(
                num_decodes=sequences,
                query_lens=(1,) * sequences,
                cached_lens=(pages * 16,) * sequences,
                query_starts_S1=torch.arange(sequences + 1, dtype=torch.int32),
                cached_lens_S=torch.full((sequences,), pages * 16, dtype=torch.int32),
                block_table_SM=torch.randperm(pages * sequences).int().view(sequences, pages),
                slots_T=torch.zeros(sequences, dtype=torch.int64),
            )
            q_TNH = torch.randn(sequences, heads, width)
            attend = partial(attention.attend, q_TNH, cache, batch, scale=0.125)
            best_s = measure_best_s(attend, seconds)
            gbytes = (cache.key.nbytes + cache.value.nbytes) / best_s / 1e9
            name = str(dtype).removeprefix("torch.")
            print(f"  {name:9} S={sequences:<3} {best_s * 1e6:9.1f} us {gbytes:6.1f} GB/s")


def main() -> None:
    """Run both."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=0.3, help="for each figure")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32, 128])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    run_linear(arguments.rows, arguments.seconds)
    run_attention(arguments.seconds)


if __name__ == "__main__":
    main()
