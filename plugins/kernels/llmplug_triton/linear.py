"""The op `linear`: dense weights by torch's own products, int8 weights by a kernel.

int8 keeps each output's weights as whole numbers of one scale, which halves what a product reads;
the tile is turned into the inputs' dtype in registers, exactly, and the scale multiplies the sum.

Tiles are of one size whatever the batch, so that a token's sum runs in one order: its result is to
be the same alone and in any batch. No GPU has shown it yet.

Legend: T packed tokens, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from llmplug import KeptWeight, KernelInputError
from llmplug.ops import DenseLinear, DenseWeight, join_sources
from llmplug_triton.tensors import DTYPES, choose_dot_dtype, with_dense_rows

if TYPE_CHECKING:
    from llmplug import LazyTensor

# Tokens of a tile. Two operations a token and weight byte: 128 a byte are still fewer than the
# some 300 that a Hopper does while it reads one, so a small batch waits for memory, not for rows
# that are empty. Reasoned like the sizes below, not measured.
_BLOCK_T = 64
_BLOCK_O = 64
_BLOCK_I = 64
_LARGEST = 127  # -128 is left out: scales are symmetric


@dataclass(frozen=True, slots=True)
class Int8Weight:
    """A packed weight: weight_OI * scale_O[:, None] is the one that was given, rounded."""

    weight_OI: torch.Tensor  # int8
    scale_O: torch.Tensor  # float32
    bias_O: torch.Tensor | None  # float32
    format: str = "int8"

    @property
    def num_bytes(self) -> int:
        """Bytes in memory."""
        bias_bytes = 0 if self.bias_O is None else self.bias_O.nbytes
        return self.weight_OI.nbytes + self.scale_O.nbytes + bias_bytes


@triton.jit
def _int8_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    scale: tl.tensor,
    bias: tl.tensor,
    y: tl.tensor,
    x_stride: tl.tensor,
    num_tokens: tl.tensor,
    NUM_INPUTS: tl.constexpr,
    NUM_OUTPUTS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    DTYPE: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_I: tl.constexpr,
) -> None:
    token_T = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    output_O = tl.program_id(1).to(tl.int64) * BLOCK_O + tl.arange(0, BLOCK_O)
    is_token_T, is_output_O = token_T < num_tokens, output_O < NUM_OUTPUTS
    sum_TO = tl.zeros((BLOCK_T, BLOCK_O), tl.float32)
    for start in range(0, NUM_INPUTS, BLOCK_I):
        input_I = start + tl.arange(0, BLOCK_I)
        is_input_I = input_I < NUM_INPUTS
        x_TI = tl.load(
            x + token_T[:, None] * x_stride + input_I[None, :],
            mask=is_token_T[:, None] & is_input_I[None, :],
            other=0.0,
        )
        weight_IO = tl.load(
            weight + output_O[None, :] * NUM_INPUTS + input_I[:, None],
            mask=is_output_O[None, :] & is_input_I[:, None],
            other=0,
        )
        sum_TO = tl.dot(x_TI.to(DTYPE), weight_IO.to(DTYPE), sum_TO, input_precision="ieee")
    y_TO = sum_TO * tl.load(scale + output_O, mask=is_output_O, other=0.0)[None, :]
    if HAS_BIAS:
        y_TO += tl.load(bias + output_O, mask=is_output_O, other=0.0)[None, :]
    tl.store(
        y + token_T[:, None] * NUM_OUTPUTS + output_O[None, :],
        y_TO.to(y.dtype.element_ty),
        mask=is_token_T[:, None] & is_output_O[None, :],
    )


class Linear:
    """Twin of `llmplug.ops.DenseLinear`, which it asks for dense weights."""

    def __init__(self) -> None:
        self._dense = DenseLinear()

    def pack(
        self,
        sources: Sequence[LazyTensor],
        bias_O: torch.Tensor | None,
        *,
        device: torch.device,
        dtype: torch.dtype,
        format: str = "auto",  # noqa: A002 - the word of checkpoints, configs and reports
    ) -> DenseWeight | Int8Weight:
        """Read the sources and join them, dense or, for the format `int8`, rounded.

        Raises:
            KernelInputError: a format that is not served, or shapes that do not join.
        """
        if format != "int8":
            return self._dense.pack(sources, bias_O, device=device, dtype=dtype, format=format)
        weight_OI = join_sources(sources, bias_O, device, torch.float32)
        scale_O = weight_OI.abs().amax(1) / _LARGEST
        # Zeros stay zeros, and rows so small that their scale has lost its digits become zeros.
        divisor_O = torch.where((1 / scale_O).isinf(), torch.inf, scale_O)
        return Int8Weight(
            (weight_OI / divisor_O[:, None]).round_().to(torch.int8),
            scale_O,
            None if bias_O is None else bias_O.to(device, torch.float32),
        )

    def __call__(self, x_TI: torch.Tensor, packed: DenseWeight | Int8Weight) -> torch.Tensor:
        """Return y_TO = x_TI @ weight.T + bias, in the dtype of x_TI.

        Raises:
            KernelInputError: x is no matrix of the weight's width, or of another dtype than
                float32, bfloat16 and float16.
        """
        if isinstance(packed, DenseWeight):
            return self._dense(x_TI, packed)
        num_outputs, num_inputs = packed.weight_OI.shape
        if x_TI.dim() != 2 or x_TI.shape[1] != num_inputs or x_TI.dtype not in DTYPES:
            raise KernelInputError(
                f"inputs of {tuple(x_TI.shape)} in {x_TI.dtype} for a weight of "
                f"({num_outputs}, {num_inputs})"
            )
        x_TI = with_dense_rows(x_TI)
        num_tokens = x_TI.shape[0]
        y_TO = torch.empty((num_tokens, num_outputs), device=x_TI.device, dtype=x_TI.dtype)
        if y_TO.numel() == 0:
            return y_TO
        has_bias = packed.bias_O is not None
        grid = (triton.cdiv(num_tokens, _BLOCK_T), triton.cdiv(num_outputs, _BLOCK_O))
        _int8_kernel[grid](
            x_TI, packed.weight_OI, packed.scale_O, packed.bias_O if has_bias else packed.scale_O,
            y_TO, x_TI.stride(0), num_tokens,
            NUM_INPUTS=num_inputs, NUM_OUTPUTS=num_outputs, HAS_BIAS=has_bias,
            DTYPE=choose_dot_dtype(x_TI.dtype, _int8_kernel),
            BLOCK_T=_BLOCK_T, BLOCK_O=_BLOCK_O, BLOCK_I=_BLOCK_I, num_warps=4, num_stages=3,
        )  # fmt: skip
        return y_TO


def keep_weight(source: LazyTensor, wanted: str) -> KeptWeight | None:
    """Say how `Linear.pack` will keep one source; see `KernelSpec.keep`."""
    if wanted == "int8":
        outputs, inputs = source.shape
        return KeptWeight("int8", outputs * inputs + 4 * outputs, "asked for")
    return None
