"""The product x @ weight.T of a weight in few bits, with scales for groups of its inputs.

Codes become the inputs' dtype in registers, exactly: whole numbers of 8 bits and 8-bit floats fit
bfloat16. A tile is multiplied, and then scaled, in float32. Few rows (decode) and many have tiles
of different height that walk the same blocks of inputs in the same order.

Legend: T packed tokens, I inputs, O outputs, G groups of inputs, h half of a block of inputs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

from llmplug.ops import bucket_rows
from llmplug_triton.tensors import choose_dot_dtype
from llmplug_triton.tuning import cross, find_sizes, make_tunable

if TYPE_CHECKING:
    from llmplug.ops import Tunable, Tuning

# All sizes are reasoned, none is measured yet. A product of few rows waits for the weight's bytes:
# the lowest tile that tensor cores have, narrow, so that more programs read at once.
_FEW_TOKENS = 16
_FEW = {"BLOCK_T": 16, "BLOCK_O": 32, "num_warps": 4, "num_stages": 4}
_MANY = {"BLOCK_T": 64, "BLOCK_O": 64, "num_warps": 4, "num_stages": 3}
_CANDIDATES = (
    *cross(BLOCK_T=(16,), BLOCK_O=(16, 32, 64, 128), num_warps=(4,), num_stages=(3, 4, 5)),
    *cross(BLOCK_T=(32, 64), BLOCK_O=(64, 128), num_warps=(4, 8), num_stages=(2, 3, 4)),
    *cross(BLOCK_T=(128,), BLOCK_O=(64, 128), num_warps=(8,), num_stages=(2, 3)),
)
# Inputs that are walked at once: a group of 32, or 64 within a larger one. Codes of 4 bits lie
# accordingly, and sums run in its order: it is not for choice.
_BLOCK_I = 64

_NAME = "scaled_product"  # of its free parameters

# Which number stands for 0 in 4 bits.
ZERO_8, ZERO_STORED, MINIMUM_STORED = 0, 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledWeight:
    """A weight in few bits.

    Attributes:
        code: 8 bits: int8, uint8 or float8_e4m3fn (O, I). 4 bits: uint8 (O, bytes); a byte of a
            block of `block` inputs holds the input of its place and, in the high half, the one that
            comes half a block later; the last block is filled up with zeros.
        scale: (O or blocks of outputs, G).
        shift_OG: with ZERO_STORED a whole number from 0 to 256, (code - shift) * scale; with
            MINIMUM_STORED the least number, code * scale + shift.
        order_I: int32; the input that stands at each place, where groups are not neighbours.
        group: inputs that share a scale, a multiple of 32 if there are several groups.
        outputs_per_scale: 1, or the height of blocks with one scale.
    """

    format: str
    code: torch.Tensor
    scale: torch.Tensor
    num_inputs: int
    group: int
    is_int4: bool = False
    zero: int = ZERO_8
    shift_OG: torch.Tensor | None = None
    order_I: torch.Tensor | None = None
    outputs_per_scale: int = 1

    @property
    def num_outputs(self) -> int:
        """Rows of the weight."""
        return self.code.shape[0]

    @property
    def num_bytes(self) -> int:
        """Bytes in memory."""
        parts = (self.code, self.scale, self.shift_OG, self.order_I)
        return sum(part.nbytes for part in parts if part is not None)

    @property
    def block(self) -> int:
        """Inputs that are walked at once."""
        return choose_block(self.group)

    def join(self, other: ScaledWeight) -> ScaledWeight | None:
        """Return one weight with the outputs of both, or None where they are not alike."""
        mine, others = (
            (w.format, w.code.dtype, w.scale.dtype, w.group, w.zero, w.outputs_per_scale)
            for w in (self, other)
        )
        if mine != others or self.num_outputs % self.outputs_per_scale:
            return None
        if not _are_equal(self.order_I, other.order_I):
            return None
        shift_OG = None
        if self.shift_OG is not None and other.shift_OG is not None:
            shift_OG = torch.cat((self.shift_OG, other.shift_OG))
        # Bytes, as not every torch joins 8-bit floats.
        code = torch.cat((self.code.view(torch.uint8), other.code.view(torch.uint8)))
        scale = torch.cat((self.scale, other.scale))
        return replace(self, code=code.view(self.code.dtype), scale=scale, shift_OG=shift_OG)


def _are_equal(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    return a is b if a is None or b is None else torch.equal(a, b)


def choose_block(group: int) -> int:
    """Return how many inputs of groups of this size are walked at once."""
    return _BLOCK_I if group % _BLOCK_I == 0 else 32


@triton.jit
def _load_inputs(
    x: tl.tensor,
    token_T: tl.tensor,
    is_token_T: tl.tensor,
    input_I: tl.tensor,
    x_stride: tl.tensor,
    NUM_INPUTS: tl.constexpr,
) -> tl.tensor:
    return tl.load(
        x + token_T[:, None] * x_stride + input_I[None, :],
        mask=is_token_T[:, None] & (input_I < NUM_INPUTS)[None, :],
        other=0.0,
    )


@triton.jit
def _scaled_product_kernel(
    x: tl.tensor,
    code: tl.tensor,
    scale: tl.tensor,
    shift: tl.tensor,
    bias: tl.tensor,
    y: tl.tensor,
    x_stride: tl.tensor,
    y_stride: tl.tensor,
    num_tokens: tl.tensor,
    NUM_INPUTS: tl.constexpr,
    NUM_OUTPUTS: tl.constexpr,
    CODE_STRIDE: tl.constexpr,
    NUM_GROUPS: tl.constexpr,
    GROUP: tl.constexpr,
    OUTPUTS_PER_SCALE: tl.constexpr,
    IS_INT4: tl.constexpr,
    ZERO: tl.constexpr,  # as in ScaledWeight.zero: 0 is a zero of 8, 1 a stored zero, 2 a minimum
    HAS_BIAS: tl.constexpr,
    DTYPE: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_I: tl.constexpr,
) -> None:
    token_T = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    output_O = tl.program_id(1).to(tl.int64) * BLOCK_O + tl.arange(0, BLOCK_O)
    is_token_T, is_output_O = token_T < num_tokens, output_O < NUM_OUTPUTS
    scale_O = scale + output_O // OUTPUTS_PER_SCALE * NUM_GROUPS
    sum_TO = tl.zeros((BLOCK_T, BLOCK_O), tl.float32)
    for start in range(0, NUM_INPUTS, BLOCK_I):
        group = start // GROUP
        if IS_INT4:
            HALF: tl.constexpr = BLOCK_I // 2
            place_h = tl.arange(0, HALF)
            # Rows are filled up to whole blocks: no byte is beyond its row.
            byte_hO = tl.load(
                code + output_O[None, :] * CODE_STRIDE + (start // 2 + place_h)[:, None],
                mask=is_output_O[None, :],
                other=0,
            )
            low_hO, high_hO = (byte_hO & 15).to(tl.int32), (byte_hO >> 4).to(tl.int32)
            if ZERO == 0:
                low_hO, high_hO = low_hO - 8, high_hO - 8
            elif ZERO == 1:
                zero = shift + output_O * NUM_GROUPS + group
                zero_1O = tl.load(zero, mask=is_output_O, other=0).to(tl.int32)[None, :]
                low_hO, high_hO = low_hO - zero_1O, high_hO - zero_1O
            x_Th = _load_inputs(x, token_T, is_token_T, start + place_h, x_stride, NUM_INPUTS)
            later_h = start + HALF + place_h
            later_Th = _load_inputs(x, token_T, is_token_T, later_h, x_stride, NUM_INPUTS)
            part_TO = tl.dot(x_Th.to(DTYPE), low_hO.to(DTYPE), input_precision="ieee")
            part_TO = tl.dot(later_Th.to(DTYPE), high_hO.to(DTYPE), part_TO, input_precision="ieee")
            if ZERO == 2:
                least = shift + output_O * NUM_GROUPS + group
                least_1O = tl.load(least, mask=is_output_O, other=0.0).to(tl.float32)[None, :]
                x_T = tl.sum(x_Th.to(tl.float32), 1) + tl.sum(later_Th.to(tl.float32), 1)
                sum_TO += x_T[:, None] * least_1O
        else:
            input_I = start + tl.arange(0, BLOCK_I)
            x_TI = _load_inputs(x, token_T, is_token_T, input_I, x_stride, NUM_INPUTS)
            code_IO = tl.load(
                code + output_O[None, :] * CODE_STRIDE + input_I[:, None],
                mask=is_output_O[None, :] & (input_I < NUM_INPUTS)[:, None],
                other=0.0,
            )
            if ZERO == 1:  # from -256 to 255: bfloat16 has these whole numbers
                zero = shift + output_O * NUM_GROUPS + group
                zero_1O = tl.load(zero, mask=is_output_O, other=0).to(tl.int32)[None, :]
                code_IO = code_IO.to(tl.int32) - zero_1O
            part_TO = tl.dot(x_TI.to(DTYPE), code_IO.to(DTYPE), input_precision="ieee")
        if NUM_GROUPS > 1 or ZERO == 2:
            group_scale_O = tl.load(scale_O + group, mask=is_output_O, other=0.0)
            part_TO *= group_scale_O.to(tl.float32)[None, :]
        sum_TO += part_TO
    if NUM_GROUPS == 1 and ZERO != 2:
        sum_TO *= tl.load(scale_O, mask=is_output_O, other=0.0).to(tl.float32)[None, :]
    if HAS_BIAS:
        sum_TO += tl.load(bias + output_O, mask=is_output_O, other=0.0)[None, :]
    tl.store(
        y + token_T[:, None] * y_stride + output_O[None, :],
        sum_TO.to(y.dtype.element_ty),
        mask=is_token_T[:, None] & is_output_O[None, :],
    )


def multiply_scaled(
    x_TI: torch.Tensor,
    weight: ScaledWeight,
    bias_O: torch.Tensor | None,
    y_TO: torch.Tensor,
    tuning: Tuning | None = None,
) -> None:
    """Write x @ weight.T + bias into y_TO, whose rows may be apart.

    Args:
        x_TI: of one of the dtypes of `tensors.DTYPES`, its rows dense.
        bias_O: float32.
    """
    num_tokens = x_TI.shape[0]
    if y_TO.numel() == 0:
        return
    if weight.order_I is not None:
        x_TI = x_TI.index_select(1, weight.order_I)
    shape = (weight.format, weight.num_outputs, weight.num_inputs, weight.group)
    sizes = find_sizes(
        tuning, _NAME, x_TI.dtype, (*shape, bucket_rows(num_tokens)),
        _FEW if num_tokens <= _FEW_TOKENS else _MANY,
    )  # fmt: skip
    grid = (
        triton.cdiv(num_tokens, sizes["BLOCK_T"]),
        triton.cdiv(weight.num_outputs, sizes["BLOCK_O"]),
    )
    kernel: Any = _scaled_product_kernel
    kernel[grid](
        x_TI, weight.code, weight.scale,
        weight.scale if weight.shift_OG is None else weight.shift_OG,
        weight.scale if bias_O is None else bias_O, y_TO, x_TI.stride(0), y_TO.stride(0),
        num_tokens, NUM_INPUTS=weight.num_inputs, NUM_OUTPUTS=weight.num_outputs,
        CODE_STRIDE=weight.code.stride(0), NUM_GROUPS=weight.scale.shape[1], GROUP=weight.group,
        OUTPUTS_PER_SCALE=weight.outputs_per_scale, IS_INT4=weight.is_int4, ZERO=weight.zero,
        HAS_BIAS=bias_O is not None, DTYPE=choose_dot_dtype(x_TI.dtype),
        BLOCK_I=weight.block, **sizes,
    )  # fmt: skip


def make_product_tunable(**fields: Any) -> Tunable:
    """Describe the free parameters; `weight_examples.py` has what they are tried on."""
    return make_tunable(
        _scaled_product_kernel,
        name=_NAME,
        shape_names=("format", "outputs", "inputs", "group", "rows"),
        candidates=_CANDIDATES,
        is_exact=True,
        **fields,
    )
