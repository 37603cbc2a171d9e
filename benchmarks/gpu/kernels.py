"""Rows of kernels: bytes and operations a second, as shares of what the device reached."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils.rnn import pad_sequence

from benchmarks.gpu.models import take_kernels
from benchmarks.gpu.rows import Row
from llmplug.ops import AttentionBatch, LoadedTensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.gpu.device import Bench, Ceilings

FORMATS = ("auto", "int8", "int4", "fp8")
# Attention of models of 8 billion weights: heads of queries, and of keys and values.
HEADS, KV_HEADS, WIDTH, PAGE = 32, 8, 128, 16


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
    decode_rows = [
        Row(
            f"attention decode B={batch} context={context}",
            partial(_run_decode, bench, ceilings, (context,) * batch),
        )
        for batch, context in decodes
    ]
    # The time of one long context is shared by all multiprocessors, or it is the batch's.
    batch, context, longest = (3, 33, 600) if bench.is_tiny else (32, 512, 32768)
    ragged = Row(
        f"attention decode B={batch} context={context} longest={longest}",
        partial(_run_decode, bench, ceilings, (longest, *(context,) * (batch - 1))),
    )
    return [*rows, *decode_rows, ragged]


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


def _run_decode(bench: Bench, ceilings: Ceilings, contexts: tuple[int, ...]) -> dict[str, Any]:
    seconds = bench.measure_s(prepare_decode(bench, take_kernels(bench).attention, contexts))
    num_tokens = sum(contexts)
    num_bytes = 2.0 * num_tokens * KV_HEADS * WIDTH * bench.dtype.itemsize
    return _share(ceilings, seconds, num_bytes, 4.0 * num_tokens * HEADS * WIDTH)


def prepare_decode(
    bench: Bench, attention: Any, contexts: tuple[int, ...]
) -> Callable[[], torch.Tensor]:
    """Return a call of attention: one token of each sequence, whose pages are in random order."""
    batch, counts = len(contexts), [-(-context // PAGE) for context in contexts]
    cache = attention.allocate(
        sum(counts), PAGE, KV_HEADS, WIDTH, device=bench.device, dtype=bench.dtype
    )
    for kept in (cache.key, cache.value):
        kept.normal_()
    tables = torch.split(torch.randperm(sum(counts)).int(), counts)
    table_SM = pad_sequence(list(tables), batch_first=True, padding_value=-1)
    tokens = AttentionBatch(
        num_decodes=batch,
        query_lens=(1,) * batch,
        cached_lens=contexts,
        query_starts_S1=torch.arange(batch + 1, dtype=torch.int32, device=bench.device),
        cached_lens_S=torch.tensor(contexts, dtype=torch.int32, device=bench.device),
        block_table_SM=table_SM.to(bench.device),
        slots_T=torch.zeros(batch, dtype=torch.int64, device=bench.device),
    )
    q_TNH = torch.randn(batch, HEADS, WIDTH, device=bench.device, dtype=bench.dtype)
    return partial(attention.attend, q_TNH, cache, tokens, scale=WIDTH**-0.5)
