"""Rows of kernels: bytes and operations a second, as shares of what the device reached."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.gpu.models import take_kernels
from benchmarks.gpu.rows import Row
from llmplug.ops import AttentionBatch, LoadedTensor

if TYPE_CHECKING:
    from benchmarks.gpu.device import Bench, Ceilings

FORMATS = ("auto", "int8", "int4", "fp8")


def list_kernel_rows(bench: Bench, ceilings: Ceilings) -> list[Row]:
    """Rows of the ops that take the time of a step."""
    shapes = [(64, 96)] if bench.is_tiny else [(6144, 4096), (28672, 4096), (4096, 14336)]
    formats = FORMATS if bench.device.type == "cuda" else FORMATS[:1]
    rows = [
        Row(
            f"linear {outputs}x{inputs} {name} T={num_tokens}",
            partial(_run_linear, bench, ceilings, outputs, inputs, name, num_tokens),
        )
        for outputs, inputs in shapes
        for name in formats
        for num_tokens in ((1, 17) if bench.is_tiny else (1, 16, 64, 256, 2048))
    ]
    decodes = [(2, 33)] if bench.is_tiny else [(1, 1024), (32, 4096), (256, 1024)]
    return rows + [
        Row(
            f"attention decode B={batch} context={context}",
            partial(_run_decode, bench, ceilings, batch, context),
        )
        for batch, context in decodes
    ]


def _share(ceilings: Ceilings, seconds: float, num_bytes: float, flops: float) -> dict[str, Any]:
    return {"us": seconds * 1e6, "gbytes_s": num_bytes / seconds / 1e9,
            "tflops": flops / seconds / 1e12,
            "of_limit": ceilings.least_s(num_bytes, flops) / seconds}  # fmt: skip


def _run_linear(
    bench: Bench, ceilings: Ceilings, outputs: int, inputs: int, name: str, num_tokens: int
) -> dict[str, Any]:
    linear = take_kernels(bench).linear
    weight_OI = torch.randn(outputs, inputs, device=bench.device, dtype=bench.dtype)
    packed = linear.pack(
        [LoadedTensor(weight_OI)], None, device=bench.device, dtype=bench.dtype, format=name
    )
    x_TI = torch.randn(num_tokens, inputs, device=bench.device, dtype=bench.dtype)
    seconds = bench.measure_s(lambda: linear(x_TI, packed))
    num_bytes = packed.num_bytes + x_TI.nbytes + num_tokens * outputs * bench.dtype.itemsize
    return _share(ceilings, seconds, num_bytes, 2.0 * num_tokens * outputs * inputs)


def _run_decode(bench: Bench, ceilings: Ceilings, batch: int, context: int) -> dict[str, Any]:
    """One token of each sequence, 32 heads over 8 of keys and values, pages in random order."""
    attention, heads, kv_heads, width, page = take_kernels(bench).attention, 32, 8, 128, 16
    pages = -(-context // page)
    cache = attention.allocate(
        pages * batch, page, kv_heads, width, device=bench.device, dtype=bench.dtype
    )
    order = torch.randperm(pages * batch).int().view(batch, pages)
    tokens = AttentionBatch(
        num_decodes=batch,
        query_lens=(1,) * batch,
        cached_lens=(context,) * batch,
        query_starts_S1=torch.arange(batch + 1, dtype=torch.int32, device=bench.device),
        cached_lens_S=torch.full((batch,), context, dtype=torch.int32, device=bench.device),
        block_table_SM=order.to(bench.device),
        slots_T=torch.zeros(batch, dtype=torch.int64, device=bench.device),
    )
    q_TNH = torch.randn(batch, heads, width, device=bench.device, dtype=bench.dtype)
    seconds = bench.measure_s(lambda: attention.attend(q_TNH, cache, tokens, scale=width**-0.5))
    num_bytes = 2.0 * batch * context * kv_heads * width * bench.dtype.itemsize
    return _share(ceilings, seconds, num_bytes, 4.0 * batch * context * heads * width)
