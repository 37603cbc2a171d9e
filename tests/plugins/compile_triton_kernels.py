"""Compile every Triton kernel for a Hopper GPU on a machine that has none; print one line each.

The launchers are called as they are, on tensors of the CPU. A stand-in driver says which GPU to
compile for, and kernels are compiled where they would be launched. Run as a script, in a process
without TRITON_INTERPRET, with the ops whose kernels are meant.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from llmplug.ops import (
    REFERENCES,
    DenseWeight,
    Fp8Tensor,
    KernelTable,
    LoadedTensor,
    PagedAttention,
)
from llmplug.ops.attention_examples import apply_attention, make_attention_example
from llmplug.ops.rope_store import apply_rope_store
from llmplug_triton import llmplug_kernels

sys.path.insert(0, str(Path(__file__).parents[2]))  # it is run as a script

from tests.ops.packed_weights import make_int_tensor
from tests.plugins.block_tensors import BLOCKS, make_blocks

HOPPER = GPUTarget("cuda", 90, 32)
CPU = torch.device("cpu")
# As models have them; with and without a window, and a width that is no power of two.
ATTENTION = [
    (torch.bfloat16, make_attention_example([(1, 300), (40, 40)], heads=(8, 2, 128))),
    (torch.float16, make_attention_example([(1, 9), (4, 4)], heads=(6, 2, 80), window=64)),
    (torch.float32, make_attention_example([(1, 9), (4, 4)], heads=(2, 2, 64))),
    (
        torch.bfloat16,
        make_attention_example(
            [(1, 300), (40, 40)],
            heads=(8, 1, 64),
            soft_cap=50.0,
            has_sinks=True,
            cache_dtype=torch.float8_e4m3fn,
            scales=(0.01, 0.3),
        ),
    ),
]


def compile_only(kernel: JITFunction, grid: tuple[int, ...]) -> functools.partial[object]:
    return functools.partial(kernel.warmup, grid=grid)


def compile_linear(kernel: Any) -> None:
    """Every format, for few rows and for many."""
    codes, scales = torch.zeros(300, 256).to(torch.float8_e4m3fn), torch.ones(3, 2)
    blocks = Fp8Tensor(weight=LoadedTensor(codes), scales=LoadedTensor(scales))
    weight = LoadedTensor(torch.zeros(128, 256))
    for dtype, num_tokens in ((torch.bfloat16, 1), (torch.bfloat16, 64)):
        sources = {
            "auto": [make_int_tensor("AWQ", 16, 256, 128), blocks,
                     make_int_tensor("GPTQ", 16, 256, 128, bits=8, is_in_order=False),
                     *(make_blocks(weight.tensor, name) for name in BLOCKS)],
            "int8": [weight], "int4": [weight], "fp8": [weight],
        }  # fmt: skip
        for name, parts in sources.items():
            bias_O = torch.zeros(sum(part.shape[0] for part in parts))
            packed = kernel.pack(parts, bias_O, device=CPU, dtype=dtype, format=name)
            kernel(torch.zeros(num_tokens, 256, dtype=dtype), packed)


def compile_few_rows(kernel: Any) -> None:
    for dtype in (torch.bfloat16, torch.float32):
        packed = DenseWeight(torch.zeros(48, 320, dtype=dtype), torch.zeros(48, dtype=dtype), "")
        kernel(torch.zeros(3, 320, dtype=dtype), packed)


class Split:
    """A tuning that has dense weights of few rows split over their inputs."""

    def find_sizes(self, tunable: str, dtype: torch.dtype, shape: Any, default: Any) -> Any:
        return {**default, "NUM_SPLITS": 4} if tunable == "few_rows" else default


def main() -> None:
    triton.runtime.driver.set_active(
        SimpleNamespace(
            get_current_target=lambda: HOPPER,
            get_current_device=lambda: 0,
            get_current_stream=lambda device: 0,
        )
    )
    JITFunction.__getitem__ = compile_only
    for spec in llmplug_kernels():
        if spec.op not in sys.argv[1:]:
            continue
        kernel = spec.load()
        if spec.op == "attention":
            for dtype, example in ATTENTION:
                apply_attention(kernel, {**example, "device": CPU, "dtype": dtype})
        elif spec.op == "linear":
            compile_linear(kernel)
            compile_few_rows(spec.load(Split()))
        else:
            kernels = {"attention": PagedAttention(), spec.op: kernel}
            for dtype in (torch.bfloat16, torch.float32):
                examples = list(REFERENCES[spec.op].example_inputs(CPU, dtype))
                make_scaled = REFERENCES[spec.op].scaled_inputs
                scaled = [] if make_scaled is None else list(make_scaled(CPU, dtype))
                # Some have rarer settings last.
                for example in examples[2:4] + examples[8:9] + scaled[:1]:
                    if spec.op == "rope_store":
                        apply_rope_store(KernelTable(kernels), example)
                    else:
                        kernel(**example)
        print(spec.op)


if __name__ == "__main__":
    main()
