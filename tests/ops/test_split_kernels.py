"""Ops of ranks that each hold a part give what one that holds all gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch

from llmplug.ops import (
    REFERENCES,
    ComposedDecoderLayer,
    DenseWeight,
    KernelTable,
    choose_kernels,
    load_kernels,
    split_kernels,
)
from llmplug.ops.split_kernels import (
    GatheredWeight,
    SplitTable,
    SummedWeight,
    refuse_fused_layers,
)
from llmplug.testing.thread_ranks import Meeting, ThreadCollective

OPS = load_kernels(REFERENCES, [], choose_kernels(REFERENCES, [], "cpu", "float32"))


def run_ranks(num_ranks: int, call: Callable[[KernelTable, int], torch.Tensor]) -> torch.Tensor:
    """Call on every rank; all return the same to the bit."""
    meeting = Meeting(num_ranks)
    tables = [split_kernels(OPS, ThreadCollective(r, num_ranks, meeting)) for r in range(num_ranks)]
    with ThreadPoolExecutor(num_ranks) as pool:
        first, *others = pool.map(call, tables, range(num_ranks))
    assert all(torch.equal(other, first) for other in others)
    return first


def split(weight_OI: torch.Tensor, sizes: Sequence[int], dimension: int) -> list[DenseWeight]:
    return [DenseWeight(part, None, "float32") for part in weight_OI.split(list(sizes), dimension)]


@pytest.mark.parametrize("num_tokens", [0, 1, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_of_some_inputs_are_summed(num_tokens: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    # Whole numbers: sums are exact in any order, also in bfloat16.
    weight_OI, x_TI = (torch.randint(-2, 3, shape).to(dtype) for shape in ((4, 7), (num_tokens, 7)))
    bias_O = torch.arange(4).to(dtype)
    parts = split(weight_OI, (3, 4), 1)
    parts[0] = replace(parts[0], bias_O=bias_O)
    got = run_ranks(
        2,
        lambda ops, rank: ops.linear(x_TI.split([3, 4], 1)[rank], SummedWeight(parts[rank])),
    )
    expected = OPS.linear(x_TI, DenseWeight(weight_OI, bias_O, "float32"))
    assert got.dtype == dtype
    assert torch.equal(got, expected)


def test_outputs_of_several_widths_are_gathered() -> None:
    torch.manual_seed(0)
    weight_OI, x_TI = torch.randn(7, 6), torch.randn(3, 6)
    parts = split(weight_OI, (2, 2, 3), 0)
    got = run_ranks(3, lambda ops, rank: ops.linear(x_TI, GatheredWeight(parts[rank], (2, 2, 3))))
    torch.testing.assert_close(got, x_TI @ weight_OI.T)


def test_other_weights_are_multiplied_as_they_are() -> None:
    weight_OI, x_TI = torch.randn(7, 6), torch.randn(3, 6)
    got = run_ranks(2, lambda ops, _: ops.linear(x_TI, DenseWeight(weight_OI, None, "float32")))
    assert torch.equal(got, OPS.linear(x_TI, DenseWeight(weight_OI, None, "float32")))
    table_VD, ids_T = torch.randn(5, 4), torch.tensor([4, 0])
    assert torch.equal(run_ranks(2, lambda ops, _: ops.embed(ids_T, table_VD)), table_VD[ids_T])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_rank_has_the_row_of_each_token(dtype: torch.dtype) -> None:
    """Exactly: the others add zeros, also where their own rows are no numbers."""
    table_VD = torch.randn(7, 4).to(dtype)
    table_VD[2] = torch.inf  # the last row of one rank, the first of the next
    table_VD[3] = torch.nan
    parts = table_VD.split(3)
    tables = [SplitTable(part, first) for part, first in zip(parts, (0, 3, 6), strict=True)]
    ids_T = torch.tensor([6, 0, 5, 1, 1, 4])
    before = table_VD.clone()
    got = run_ranks(3, lambda ops, rank: ops.embed(ids_T, tables[rank]))
    assert torch.equal(got, table_VD[ids_T])
    assert torch.equal(table_VD.nan_to_num(), before.nan_to_num())  # nobody wrote to the weights
    none_T = ids_T[:0]
    assert run_ranks(3, lambda ops, rank: ops.embed(none_T, tables[rank])).shape == (0, 4)


def test_whole_layers_are_composed_and_the_table_says_why() -> None:
    fused: Any = object()
    choices = [
        replace(choice, kernel="fast", plugin="mine", spare=(("next", "other"),))
        if choice.op in {"decoder_layer", "rms_norm"}
        else choice
        for choice in OPS.choices
    ]
    table = OPS.replace({"decoder_layer": fused}, choices)
    got = split_kernels(table, ThreadCollective(0, 1, Meeting(1)))
    assert isinstance(got.decoder_layer, ComposedDecoderLayer)
    assert got.rms_norm is OPS.rms_norm
    by_op = {choice.op: choice for choice in got.choices}
    layer = by_op["decoder_layer"]
    assert (layer.kernel, layer.plugin, layer.spare) == ("composed", None, ())
    assert layer.refused == (("fast", "it does not know of ranks, which sum up within a layer"),)
    assert by_op["rms_norm"].kernel == "fast"
    assert refuse_fused_layers(OPS.choices) == OPS.choices
