"""The op `choose_tokens`: the highest of logit / temperature + noise, in one pass over the logits.

Chunks of a row are programs of their own, whose highest a second kernel compares: a single row is
read by many programs.

Legend: S rows (sequences), V vocabulary, C chunks of a row.
Source: SplitMix64, https://prng.di.unimi.it/splitmix64.c
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

from llmplug import KernelInputError
from llmplug.ops import ModelSizes, Workload, bucket_rows
from llmplug_triton.tensors import round_up_to_power, with_dense_rows
from llmplug_triton.tuning import cross, find_sizes, list_rows, make_tunable

if TYPE_CHECKING:
    from llmplug.ops import Tuning

# Logits of one program: 152k of them are 38 programs a row. Reasoned, not measured yet.
_CHUNK = 4096
_CANDIDATES = cross(CHUNK=(1024, 2048, 4096, 8192), num_warps=(4, 8, 16))


@triton.jit
def _mix(z: tl.tensor) -> tl.tensor:
    z = (z ^ (z >> 30)) * tl.full((1,), 0xBF58476D1CE4E5B9, tl.uint64)
    z = (z ^ (z >> 27)) * tl.full((1,), 0x94D049BB133111EB, tl.uint64)
    return z ^ (z >> 31)


@triton.jit
def _choose_kernel(
    logits: tl.tensor,
    temperature: tl.tensor,
    seeds: tl.tensor,
    positions: tl.tensor,
    best: tl.tensor,  # (S, C) the highest score of a chunk
    best_id: tl.tensor,  # int64
    stride: tl.tensor,
    NUM_TOKENS: tl.constexpr,
    NUM_CHUNKS: tl.constexpr,
    CHUNK: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)  # the grid ends with the rows
    chunk = tl.program_id(1)
    token_V = chunk * CHUNK + tl.arange(0, CHUNK)
    is_there_V = token_V < NUM_TOKENS
    logit_V = tl.load(logits + row * stride + token_V, mask=is_there_V, other=float("-inf"))
    heat = tl.load(temperature + row)
    score_V = logit_V
    if heat != 0.0:
        step = tl.full((1,), 0x9E3779B97F4A7C15, tl.uint64)
        seed = _mix(tl.load(seeds + row).to(tl.uint64) + tl.zeros((1,), tl.uint64))
        key = _mix(seed + (tl.load(positions + row) + 1).to(tl.uint64) * step)
        high_V = _mix(key + (token_V + 1).to(tl.uint64) * step) >> 32
        uniform_V = (high_V.to(tl.float32) + 0.5) * 2.3283064365386963e-10  # 2^-32
        uniform_V = tl.minimum(uniform_V, 0.9999999403953552)  # 1 - 2^-24
        # log1p(-u), exact where u is small: w - 1 is what of u is left in w.
        rest_V = 1.0 - uniform_V
        lost_V = tl.where(rest_V == 1.0, 1.0, uniform_V / (1.0 - rest_V))
        wait_V = tl.where(rest_V == 1.0, uniform_V, -tl.log(rest_V) * lost_V)
        score_V = logit_V / heat - tl.log(wait_V)
    is_nan_V = score_V != score_V  # noqa: PLR0124 - as only a NaN is
    score_V = tl.where(is_nan_V, float("inf"), score_V)  # it is chosen
    score_V = tl.where(is_there_V, score_V, float("-inf"))
    highest = tl.max(score_V, 0)
    first = tl.min(tl.where((score_V == highest) & is_there_V, token_V, NUM_TOKENS), 0)
    tl.store(best + row * NUM_CHUNKS + chunk, highest)
    tl.store(best_id + row * NUM_CHUNKS + chunk, first.to(tl.int64))


@triton.jit
def _compare_kernel(
    best: tl.tensor,
    best_id: tl.tensor,
    ids: tl.tensor,
    NUM_CHUNKS: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)  # the grid ends with the rows
    chunk_C = tl.arange(0, BLOCK_C)
    is_there_C = chunk_C < NUM_CHUNKS
    score_C = tl.load(best + row * NUM_CHUNKS + chunk_C, mask=is_there_C, other=float("-inf"))
    id_C = tl.load(best_id + row * NUM_CHUNKS + chunk_C, mask=is_there_C, other=2**62)
    is_best_C = (score_C == tl.max(score_C, 0)) & is_there_C
    tl.store(ids + row, tl.min(tl.where(is_best_C, id_C, 2**62), 0))


def choose_tokens(
    logits_SV: torch.Tensor,
    temperature_S: torch.Tensor,
    seeds_S: torch.Tensor,
    positions_S: torch.Tensor,
    *,
    tuning: Tuning | None = None,
) -> torch.Tensor:
    """Choose a token a row; twin of `llmplug.ops.choose_tokens`.

    Raises:
        KernelInputError: logits are no float32 matrix of at least one column, or there are not as
            many temperatures (float32), seeds and positions (int64) as rows.
    """
    if logits_SV.dim() != 2 or logits_SV.dtype is not torch.float32 or logits_SV.shape[1] == 0:
        raise KernelInputError(
            f"logits are a float32 matrix, not {logits_SV.dtype} {tuple(logits_SV.shape)}"
        )
    num_rows, size = logits_SV.shape
    for tensor, dtype in ((temperature_S, torch.float32), (seeds_S, torch.int64),
                          (positions_S, torch.int64)):  # fmt: skip
        if tensor.shape != (num_rows,) or tensor.dtype is not dtype:
            raise KernelInputError(
                f"{num_rows} rows need as many of {dtype}, not {tensor.dtype} {tuple(tensor.shape)}"
            )
    logits_SV = with_dense_rows(logits_SV)
    sizes = find_sizes(
        tuning, "choose_tokens", logits_SV.dtype, (size, bucket_rows(num_rows)),
        {"CHUNK": _CHUNK, "num_warps": 8},
    )  # fmt: skip
    num_chunks = triton.cdiv(size, sizes["CHUNK"])
    shape = (num_rows, num_chunks)
    best = torch.empty(shape, device=logits_SV.device, dtype=torch.float32)
    best_id = torch.empty(shape, device=logits_SV.device, dtype=torch.int64)
    ids_S = torch.empty(num_rows, device=logits_SV.device, dtype=torch.int64)
    if num_rows == 0:
        return ids_S
    _choose_kernel[(num_rows, num_chunks)](
        logits_SV, temperature_S.contiguous(), seeds_S.contiguous(), positions_S.contiguous(),
        best, best_id, logits_SV.stride(0), NUM_TOKENS=size, NUM_CHUNKS=num_chunks,
        CHUNK=min(sizes["CHUNK"], round_up_to_power(size)), num_warps=sizes["num_warps"],
    )  # fmt: skip
    _compare_kernel[(num_rows,)](
        best, best_id, ids_S, NUM_CHUNKS=num_chunks, BLOCK_C=round_up_to_power(num_chunks)
    )
    return ids_S


def _list_workloads(sizes: ModelSizes, device: torch.device, _: torch.dtype) -> list[Workload]:
    """Rows of all the vocabulary; as many as sequences may run at once."""
    return [
        Workload(
            prepare=partial(_prepare, rows, sizes.vocab_size, device),
            num_bytes=4.0 * rows * sizes.vocab_size,
            num_flops=0.0,
        )
        for rows in list_rows(device)[:3]
    ]


def _prepare(rows: int, size: int, device: torch.device, choose: Any) -> partial[torch.Tensor]:
    generator = torch.Generator(device).manual_seed(0)
    logits_SV = torch.randn(rows, size, generator=generator, device=device)
    count_S = torch.arange(rows, device=device)
    return partial(choose, logits_SV, torch.ones(rows, device=device), count_S, count_S)


CHOOSE_TOKENS = make_tunable(
    _choose_kernel,
    name="choose_tokens",
    shape_names=("vocabulary", "rows"),
    candidates=_CANDIDATES,
    is_exact=True,
    workloads=_list_workloads,
)
