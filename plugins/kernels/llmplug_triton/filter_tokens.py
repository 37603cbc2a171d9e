"""The op `filter_tokens`: top-k, top-p and min-p by halving, without a sort.

A float32 becomes a whole number of the same order. The lowest one that stays is found in 32 steps,
each of which counts (top-k) or weighs (top-p) the tokens above a middle. A program a row, which
reads it some 70 times from the cache.

Legend: S rows (sequences), V vocabulary.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

from llmplug import KernelInputError
from llmplug.ops import ModelSizes, Workload
from llmplug_triton.tensors import round_up_to_power
from llmplug_triton.tuning import cross, find_sizes, list_rows, make_tunable

if TYPE_CHECKING:
    from llmplug.ops import Tuning

# Logits that are looked at at once. Reasoned, not measured yet.
_BLOCK = 4096
_CANDIDATES = cross(BLOCK=(1024, 2048, 4096, 8192), num_warps=(4, 8, 16))


@triton.jit
def _to_order(x: tl.tensor) -> tl.tensor:
    """Return an int32 of the same order; 0.0 and -0.0 are equal."""
    bits = (x + 0.0).to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def _from_order(order: tl.tensor) -> tl.tensor:
    bits = order.to(tl.int32)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.float32, bitcast=True)


@triton.jit
def _measure_from(
    logits: tl.tensor,  # of the row
    least: tl.tensor,  # int64: tokens from here on are measured
    above: tl.tensor,  # int64: and beyond this
    highest: tl.tensor,
    NUM_TOKENS: tl.constexpr,
    BLOCK: tl.constexpr,
    COUNTS: tl.constexpr,  # else their weights exp(logit - highest) are summed
) -> tl.tensor:
    total_V = tl.zeros((BLOCK,), tl.float32)
    count_V = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, NUM_TOKENS, BLOCK):
        token_V = start + tl.arange(0, BLOCK)
        is_there_V = token_V < NUM_TOKENS
        x_V = tl.load(logits + token_V, mask=is_there_V, other=float("-inf"))
        order_V = _to_order(x_V).to(tl.int64)
        is_in_V = is_there_V & (order_V >= least) & (order_V > above)
        if COUNTS:
            count_V += is_in_V.to(tl.int32)
        else:
            total_V += tl.where(is_in_V, tl.exp(x_V - highest), 0.0)
    if COUNTS:
        return tl.sum(count_V, 0).to(tl.float32)  # exact up to 2^24 tokens
    return tl.sum(total_V, 0)


@triton.jit
def _find_least(
    logits: tl.tensor,
    wanted: tl.tensor,  # count or weight that tokens from the result on must have
    above: tl.tensor,
    tied: tl.tensor,  # weight of tokens equal to `above`, which are not all in
    highest: tl.tensor,
    NUM_TOKENS: tl.constexpr,
    BLOCK: tl.constexpr,
    COUNTS: tl.constexpr,
) -> tl.tensor:
    low = tl.full((), -(2**31), tl.int64)
    high = tl.full((), 2**31 - 1, tl.int64)
    for _ in range(32):
        middle = low + (high - low + 1) // 2
        found = _measure_from(logits, middle, above, highest, NUM_TOKENS, BLOCK, COUNTS)
        is_enough = found + tl.where(middle <= above, tied, 0.0) >= wanted
        low = tl.where(is_enough, middle, low)
        high = tl.where(is_enough, high, middle - 1)
    return low


@triton.jit
def _filter_kernel(
    logits: tl.tensor,
    top_k: tl.tensor,
    top_p: tl.tensor,
    min_p: tl.tensor,
    stride: tl.tensor,
    NUM_TOKENS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)  # the grid ends with the rows
    logits += row * stride
    num_kept = tl.load(top_k + row)
    share = tl.load(top_p + row)
    max_V = tl.full((BLOCK,), float("-inf"), tl.float32)
    for start in range(0, NUM_TOKENS, BLOCK):
        token_V = start + tl.arange(0, BLOCK)
        is_there_V = token_V < NUM_TOKENS
        max_V = tl.maximum(max_V, tl.load(logits + token_V, mask=is_there_V, other=float("-inf")))
    highest = tl.max(max_V, 0)

    # From `least` on tokens stay; of those equal to it the first `num_ties`.
    none = tl.full((), -(2**31) - 1, tl.int64)
    least = none
    num_ties = tl.full((), NUM_TOKENS, tl.float32)
    if (num_kept > 0) & (num_kept < NUM_TOKENS):
        wanted = num_kept.to(tl.float32)
        least = _find_least(logits, wanted, none, 0.0, highest, NUM_TOKENS, BLOCK, True)
        num_ties = wanted - _measure_from(logits, least, least, highest, NUM_TOKENS, BLOCK, True)
    if share < 1.0:
        tied = tl.where(least > none, num_ties * tl.exp(_from_order(least) - highest), 0.0)
        total = _measure_from(logits, none, least, highest, NUM_TOKENS, BLOCK, False) + tied
        wanted = share * total
        found = _find_least(logits, wanted, least, tied, highest, NUM_TOKENS, BLOCK, False)
        more = _measure_from(logits, found, found, highest, NUM_TOKENS, BLOCK, False)
        weight = tl.exp(_from_order(found) - highest)
        enough = tl.maximum(tl.ceil((wanted - more) / weight), 1.0)
        num_ties = tl.where(found > least, enough, tl.minimum(num_ties, enough))
        least = tl.maximum(found, least)

    bound = highest + tl.log(tl.load(min_p + row))
    ties_before = tl.zeros((), tl.int32)
    for start in range(0, NUM_TOKENS, BLOCK):
        token_V = start + tl.arange(0, BLOCK)
        is_there_V = token_V < NUM_TOKENS
        x_V = tl.load(logits + token_V, mask=is_there_V, other=float("-inf"))
        order_V = _to_order(x_V).to(tl.int64)
        is_tie_V = ((order_V == least) & is_there_V).to(tl.int32)
        rank_V = ties_before + tl.cumsum(is_tie_V, 0) - is_tie_V
        is_kept_V = (order_V > least) | ((is_tie_V > 0) & (rank_V.to(tl.float32) < num_ties))
        is_kept_V &= x_V >= bound
        out_V = tl.full((BLOCK,), float("-inf"), tl.float32)
        tl.store(logits + token_V, out_V, mask=is_there_V & (is_kept_V == 0))
        ties_before += tl.sum(is_tie_V, 0)


def filter_tokens(
    logits_SV: torch.Tensor,
    top_k_S: torch.Tensor,
    top_p_S: torch.Tensor,
    min_p_S: torch.Tensor,
    *,
    tuning: Tuning | None = None,
) -> torch.Tensor:
    """Forbid what is not among the likeliest; twin of `llmplug.ops.filter_tokens`.

    Sums of probabilities are float32: which token is the last of a share that ends within rounding
    of its edge may differ from the reference.

    Raises:
        KernelInputError: logits are no float32 matrix of dense rows, or there are not as many
            top_k (int64), top_p and min_p (float32) as rows.
    """
    if logits_SV.dim() != 2 or logits_SV.dtype is not torch.float32 or logits_SV.stride(1) != 1:
        raise KernelInputError(
            f"logits are a float32 matrix of dense rows, not {logits_SV.dtype} "
            f"{tuple(logits_SV.shape)}"
        )
    num_rows, size = logits_SV.shape
    for tensor, dtype in ((top_k_S, torch.int64), (top_p_S, torch.float32),
                          (min_p_S, torch.float32)):  # fmt: skip
        if tensor.shape != (num_rows,) or tensor.dtype is not dtype:
            raise KernelInputError(
                f"{num_rows} rows need as many of {dtype}, not {tensor.dtype} {tuple(tensor.shape)}"
            )
    if logits_SV.numel() > 0:
        default = {"BLOCK": _BLOCK, "num_warps": 8}
        sizes = find_sizes(tuning, "filter_tokens", logits_SV.dtype, (size,), default)
        _filter_kernel[(num_rows,)](
            logits_SV, top_k_S.contiguous(), top_p_S.contiguous(), min_p_S.contiguous(),
            logits_SV.stride(0), NUM_TOKENS=size,
            BLOCK=min(sizes["BLOCK"], round_up_to_power(size)), num_warps=sizes["num_warps"],
        )  # fmt: skip
    return logits_SV


def _list_workloads(sizes: ModelSizes, device: torch.device, _: torch.dtype) -> list[Workload]:
    """Rows of all the vocabulary; as many as sequences may run at once."""
    return [
        Workload(
            prepare=partial(_prepare, rows, sizes.vocab_size, device),
            num_bytes=8.0 * rows * sizes.vocab_size,
            num_flops=0.0,
        )
        for rows in list_rows(device)[:3]
    ]


def _prepare(rows: int, size: int, device: torch.device, kernel: Any) -> partial[torch.Tensor]:
    generator = torch.Generator(device).manual_seed(0)
    logits_SV = torch.randn(rows, size, generator=generator, device=device) * 3
    top_k_S = torch.full((rows,), min(50, size), dtype=torch.int64, device=device)
    top_p_S, min_p_S = (torch.full((rows,), share, device=device) for share in (0.9, 0.01))
    return partial(_filter_copy, kernel, logits_SV, top_k_S, top_p_S, min_p_S)


def _filter_copy(kernel: Any, logits_SV: torch.Tensor, *settings: torch.Tensor) -> torch.Tensor:
    filtered_SV: torch.Tensor = kernel(logits_SV.clone(), *settings)  # it edits what it is given
    return filtered_SV


FILTER_TOKENS = make_tunable(
    _filter_kernel,
    name="filter_tokens",
    shape_names=("vocabulary",),
    candidates=_CANDIDATES,
    is_exact=False,
    workloads=_list_workloads,
)
