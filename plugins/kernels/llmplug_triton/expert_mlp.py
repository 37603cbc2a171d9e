"""The op `expert_mlp`: products grouped by expert, over rows that are gathered as they are read.

Choices are sorted by expert on the device, and cut into tiles of one expert each. The host never
learns how many there are: it launches as many programs as there could be, and the last ones end at
once. A choice's result lies where it was chosen, so that the sum over a token's experts runs in the
order of its choices.

Legend: T packed tokens, D model width, E experts, F width of an expert's layer, C experts that a
token chose, R = T C choices, M rows of a tile, I inputs, O outputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from llmplug import KernelInputError
from llmplug_triton.silu_mul import silu_mul
from llmplug_triton.tensors import DTYPES, MIN_SIDE, choose_dot_dtype, with_dense_rows

# Reasoned, none measured yet. Rows of a tile: many choices of an expert fill the wide one.
_WIDE_ROWS = 64
_BLOCK_O = 64
_BLOCK_I = 64


@dataclass(frozen=True, slots=True)
class _Tiles:
    """Choices sorted by expert and cut into tiles, all on the device."""

    order_R: torch.Tensor  # int64: choices, those of expert 0 first
    starts_E1: torch.Tensor  # int64: of each expert in the order, and the end
    tile_starts_E: torch.Tensor  # int64: the first tile of each expert
    expert_of_tile: torch.Tensor  # int64; E: of none
    rows: int  # of a tile


@triton.jit
def _grouped_kernel(
    x: tl.tensor,
    weight: tl.tensor,  # (E, O, I)
    factors: tl.tensor,  # of each choice
    y: tl.tensor,  # (R, O)
    order: tl.tensor,
    starts: tl.tensor,
    tile_starts: tl.tensor,
    expert_of_tile: tl.tensor,
    x_stride: tl.tensor,
    NUM_EXPERTS: tl.constexpr,
    NUM_INPUTS: tl.constexpr,
    NUM_OUTPUTS: tl.constexpr,
    CHOICES_PER_ROW: tl.constexpr,  # choices that read one row of x
    HAS_FACTORS: tl.constexpr,
    DTYPE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_I: tl.constexpr,
) -> None:
    tile = tl.program_id(0).to(tl.int64)
    expert = tl.load(expert_of_tile + tile)  # the grid ends with the tiles that could be
    if expert < NUM_EXPERTS:
        first = tl.load(starts + expert)
        place_M = first + (tile - tl.load(tile_starts + expert)) * BLOCK_M + tl.arange(0, BLOCK_M)
        is_row_M = place_M < tl.load(starts + expert + 1)
        choice_M = tl.load(order + place_M, mask=is_row_M, other=0)
        x_M = x + choice_M // CHOICES_PER_ROW * x_stride
        output_O = tl.program_id(1).to(tl.int64) * BLOCK_O + tl.arange(0, BLOCK_O)
        is_output_O = output_O < NUM_OUTPUTS
        weight_O = weight + (expert * NUM_OUTPUTS + output_O) * NUM_INPUTS
        sum_MO = tl.zeros((BLOCK_M, BLOCK_O), tl.float32)
        for start in range(0, NUM_INPUTS, BLOCK_I):
            input_I = start + tl.arange(0, BLOCK_I)
            is_input_I = input_I < NUM_INPUTS
            x_MI = tl.load(
                x_M[:, None] + input_I[None, :],
                mask=is_row_M[:, None] & is_input_I[None, :],
                other=0.0,
            )
            weight_IO = tl.load(
                weight_O[None, :] + input_I[:, None],
                mask=is_output_O[None, :] & is_input_I[:, None],
                other=0.0,
            )
            sum_MO = tl.dot(x_MI.to(DTYPE), weight_IO.to(DTYPE), sum_MO, input_precision="ieee")
        if HAS_FACTORS:
            sum_MO *= tl.load(factors + choice_M, mask=is_row_M, other=0.0)[:, None]
        tl.store(
            y + choice_M[:, None] * NUM_OUTPUTS + output_O[None, :],
            sum_MO.to(y.dtype.element_ty),
            mask=is_row_M[:, None] & is_output_O[None, :],
        )


def expert_mlp(
    x_TD: torch.Tensor,
    gate_up_E2FD: torch.Tensor,
    down_EDF: torch.Tensor,
    weights_TC: torch.Tensor,
    experts_TC: torch.Tensor,
) -> torch.Tensor:
    """Sum the weighted outputs of each token's experts; twin of `llmplug.ops.expert_mlp`.

    Raises:
        KernelInputError: shapes do not fit, dtypes of x and the experts differ or are not float32,
            bfloat16 or float16, weights are not float32 or experts not int64.
    """
    _check(x_TD, gate_up_E2FD, down_EDF, weights_TC, experts_TC)
    (num_tokens, width), num_experts = x_TD.shape, gate_up_E2FD.shape[0]
    num_chosen = experts_TC.shape[1]
    # What belongs to no expert is read by none, and adds zeros.
    shape, device = (num_tokens * num_chosen, width), x_TD.device
    parts_RD = torch.zeros(shape, device=device, dtype=torch.float32)
    if parts_RD.numel() == 0:
        return parts_RD.view(num_tokens, num_chosen, width).sum(1).to(x_TD.dtype)
    tiles = _cut_into_tiles(experts_TC, num_experts)
    gate_up_R2F = torch.empty(
        (num_tokens * num_chosen, gate_up_E2FD.shape[1]), device=device, dtype=x_TD.dtype
    )
    _multiply(with_dense_rows(x_TD), gate_up_E2FD, None, gate_up_R2F, tiles, num_chosen)
    weights_R = weights_TC.contiguous().view(-1)
    _multiply(silu_mul(gate_up_R2F), down_EDF, weights_R, parts_RD, tiles, 1)
    return parts_RD.view(num_tokens, num_chosen, width).sum(1).to(x_TD.dtype)


def _cut_into_tiles(experts_TC: torch.Tensor, num_experts: int) -> _Tiles:
    """Sort choices by expert and cut them, without a word to the host."""
    num_choices, device = experts_TC.numel(), experts_TC.device
    rows = _WIDE_ROWS if num_choices >= _WIDE_ROWS * num_experts else MIN_SIDE
    sorted_R, order_R = experts_TC.reshape(-1).sort(stable=True)
    starts_E1 = torch.searchsorted(sorted_R, torch.arange(num_experts + 1, device=device))
    tiles_E = (starts_E1.diff() + rows - 1) // rows
    tile_ends_E = tiles_E.cumsum(0)
    # Full tiles, and one begun for each expert that has any.
    most = num_choices // rows + min(num_experts, num_choices)
    tile_ids = torch.arange(most, device=device)
    expert_of_tile = torch.searchsorted(tile_ends_E, tile_ids, right=True)
    return _Tiles(order_R, starts_E1, tile_ends_E - tiles_E, expert_of_tile, rows)


def _multiply(
    x: torch.Tensor,
    weight_EOI: torch.Tensor,
    factors_R: torch.Tensor | None,
    y_RO: torch.Tensor,
    tiles: _Tiles,
    choices_per_row: int,
) -> None:
    num_experts, num_outputs, num_inputs = weight_EOI.shape
    _grouped_kernel[(len(tiles.expert_of_tile), triton.cdiv(num_outputs, _BLOCK_O))](
        x, weight_EOI.contiguous(), y_RO if factors_R is None else factors_R, y_RO, tiles.order_R,
        tiles.starts_E1, tiles.tile_starts_E, tiles.expert_of_tile, x.stride(0),
        NUM_EXPERTS=num_experts, NUM_INPUTS=num_inputs, NUM_OUTPUTS=num_outputs,
        CHOICES_PER_ROW=choices_per_row, HAS_FACTORS=factors_R is not None,
        DTYPE=choose_dot_dtype(x.dtype), BLOCK_M=tiles.rows, BLOCK_O=_BLOCK_O, BLOCK_I=_BLOCK_I,
        num_warps=4, num_stages=3,
    )  # fmt: skip


def _check(
    x_TD: torch.Tensor,
    gate_up_E2FD: torch.Tensor,
    down_EDF: torch.Tensor,
    weights_TC: torch.Tensor,
    experts_TC: torch.Tensor,
) -> None:
    if x_TD.dim() != 2 or gate_up_E2FD.dim() != 3 or gate_up_E2FD.shape[1] % 2:
        raise KernelInputError(f"x {tuple(x_TD.shape)} for experts {tuple(gate_up_E2FD.shape)}")
    (num_tokens, width), (num_experts, twice, inputs) = x_TD.shape, gate_up_E2FD.shape
    if inputs != width or down_EDF.shape != (num_experts, width, twice // 2):
        raise KernelInputError(
            f"x {tuple(x_TD.shape)}, gate and up {tuple(gate_up_E2FD.shape)} and down "
            f"{tuple(down_EDF.shape)} do not fit"
        )
    if x_TD.dtype not in DTYPES or {gate_up_E2FD.dtype, down_EDF.dtype} != {x_TD.dtype}:
        raise KernelInputError(f"x of {x_TD.dtype} and experts of {gate_up_E2FD.dtype}")
    if experts_TC.dim() != 2 or experts_TC.shape[0] != num_tokens:
        raise KernelInputError(f"choices {tuple(experts_TC.shape)} of {num_tokens} tokens")
    if experts_TC.dtype is not torch.int64 or weights_TC.dtype is not torch.float32:
        raise KernelInputError("experts are int64 and weights float32")
    if weights_TC.shape != experts_TC.shape:
        raise KernelInputError(
            f"weights {tuple(weights_TC.shape)} of choices {tuple(experts_TC.shape)}"
        )
