"""Compile every Triton kernel for a Hopper GPU on a machine that has none; print one line each.

The launchers are called as they are, on tensors of the CPU. A stand-in driver says which GPU to
compile for, and kernels are compiled where they would be launched. Run as a script, in a process
without TRITON_INTERPRET.
"""

from __future__ import annotations

import functools
from types import SimpleNamespace

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from llmplug.ops import REFERENCES
from llmplug.ops.attention_examples import apply_attention, make_attention_example
from llmplug_triton import llmplug_kernels

HOPPER = GPUTarget("cuda", 90, 32)
CPU = torch.device("cpu")
# As models have them; with and without a window, and a width that is no power of two.
ATTENTION = [
    (torch.bfloat16, make_attention_example([(1, 300), (40, 40)], heads=(8, 2, 128))),
    (torch.float16, make_attention_example([(1, 9), (4, 4)], heads=(6, 2, 80), window=64)),
    (torch.float32, make_attention_example([(1, 9), (4, 4)], heads=(2, 2, 64))),
]


def compile_only(kernel: JITFunction, grid: tuple[int, ...]) -> functools.partial[object]:
    return functools.partial(kernel.warmup, grid=grid)


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
        kernel = spec.load()
        if spec.op == "attention":
            for dtype, example in ATTENTION:
                apply_attention(kernel, {**example, "device": CPU, "dtype": dtype})
        elif spec.op == "linear":
            for dtype in (torch.bfloat16, torch.float32):
                for example in REFERENCES["linear"].example_inputs(CPU, dtype)[2:4]:
                    packed = kernel.pack(
                        example["sources"], example["bias_O"], device=CPU, dtype=dtype,
                        format="int8",
                    )  # fmt: skip
                    kernel(example["x_TI"], packed)
        else:
            for dtype in (torch.bfloat16, torch.float32):
                for example in REFERENCES[spec.op].example_inputs(CPU, dtype)[2:4]:
                    kernel(**example)
        print(spec.op)


if __name__ == "__main__":
    main()
