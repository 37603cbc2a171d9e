"""Quantised weights as checkpoints store them, and what their numbers mean: the torch references.

Each is a `LazyTensor`: `load` dequantises, which any kernel can use; a kernel that keeps the codes
asks for these instead. Loaders make them in the server process too, which does without torch: it
is imported when a tensor is read.

Legend: O outputs, I inputs, G groups of neighbouring inputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from llmplug.errors import KernelInputError
from llmplug.tensor_slices import slice_tensor

if TYPE_CHECKING:
    import torch

    from llmplug.specs import LazyTensor

_WORD_BITS = 32
# Which of 8 neighbouring outputs the nibbles of an AWQ word hold, the lowest first.
# Source: https://github.com/casper-hansen/AutoAWQ, awq/utils/packing_utils.py
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
FP8_BLOCK = 128  # outputs and inputs of a block with one scale


@dataclass(frozen=True, slots=True)
class IntCodes:
    """A weight in few bits: (code - zero) * scale, each group of inputs with its own two."""

    code_OI: torch.Tensor  # uint8, 0 to 15 where they have 4 bits
    scale_OG: torch.Tensor
    zero_OG: torch.Tensor  # int16, 0 to 16 where they have 4 bits, to 256 where they have 8

    def dequantise(self) -> torch.Tensor:
        """Return weight_OI in float32."""
        group = self.code_OI.shape[1] // self.scale_OG.shape[1]
        scale_OI, zero_OI = (x.repeat_interleave(group, 1) for x in (self.scale_OG, self.zero_OG))
        return (self.code_OI.float() - zero_OI.float()) * scale_OI.float()


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedIntTensor:
    """A linear weight of a GPTQ or AWQ checkpoint, still in its file.

    Attributes:
        layout: `GPTQ`: words hold neighbouring inputs of an output, zeros are stored less one.
            `GPTQ_V2`: the same with zeros as they are. `AWQ`: words hold 8 outputs of an input.
        words: int32, each of W = 32 / bits codes; GPTQ: (I / W, O), AWQ: (I, O / W).
        zeros: int32 (G, O / W).
        scales: (G, O).
        group_of_I: int32; the group of each input, in any order where the weight was made with
            `desc_act`; None: in order.
        bits: of a code, 4 or 8; AWQ has 4.
    """

    layout: Literal["GPTQ", "GPTQ_V2", "AWQ"]
    words: LazyTensor
    zeros: LazyTensor
    scales: LazyTensor
    group_of_I: LazyTensor | None = None
    bits: Literal[4, 8] = 4

    @property
    def shape(self) -> tuple[int, ...]:
        """Outputs, inputs."""
        rows, columns = self.words.shape
        per_word = _WORD_BITS // self.bits
        return (columns * per_word, rows) if self.layout == "AWQ" else (columns, rows * per_word)

    @property
    def format(self) -> str:
        """The layout; with the bits where they are not 4."""
        return self.layout if self.bits == 4 else f"{self.layout} {self.bits} bits"

    @property
    def num_bytes(self) -> int:
        """Bytes in the file."""
        parts = (self.words, self.zeros, self.scales, self.group_of_I)
        return sum(part.num_bytes for part in parts if part is not None)

    @property
    def group(self) -> int:
        """Inputs that share a scale."""
        return self.shape[1] // self.scales.shape[0]

    def has_groups_in_order(self) -> bool:
        """Say whether groups are neighbouring inputs; reads `group_of_I`, no codes."""
        return self._find_order() is None

    def has_groups_of_one_size(self) -> bool:
        """Say whether groups have as many inputs each; reads `group_of_I`, no codes."""
        group_I = self._find_order()
        if group_I is None:
            return self.shape[1] % self.scales.shape[0] == 0
        counts_G = group_I.bincount(minlength=self.scales.shape[0])
        return bool((counts_G == self.group).all())

    def codes(self) -> IntCodes | None:
        """Return the codes, one byte each; None where groups are out of order."""
        return None if self._find_order() is not None else self._read_all()

    def codes_by_group(self) -> tuple[IntCodes, torch.Tensor | None]:
        """Return the codes, inputs of one group side by side, and which inputs these are, int32.

        None instead of these where they are in order. Only for groups of one size.
        """
        codes, group_I = self._read_all(), self._find_order()
        if group_I is None:
            return codes, None
        order_I = group_I.argsort(stable=True)
        return replace(codes, code_OI=codes.code_OI[:, order_I]), order_I.int()

    def load(self) -> torch.Tensor:
        """Dequantise to float32."""
        order_I = self._find_order()
        if order_I is None:
            return self._read_all().dequantise()
        scale_OI = self.scales.load().T[:, order_I].float()
        return (self._read_codes().float() - self._read_zeros()[:, order_I].float()) * scale_OI

    def raw(self) -> torch.Tensor:
        """Refuse: the bytes are in several tensors; kernels read `codes`."""
        raise KernelInputError(f"a weight in the layout {self.layout} has no bytes of one tensor")

    def slice(self, dimension: int, start: int, end: int) -> PackedIntTensor:
        """Return outputs (dimension 0) or inputs, still in the file.

        Raises:
            KernelInputError: a word or a group would be cut, or groups are out of order.
        """
        per_word = _WORD_BITS // self.bits
        if dimension == 0:
            _refuse_cut(start, end, per_word, "words")
            share = (start // per_word, end // per_word)
            words = share if self.layout == "AWQ" else (start, end)
            return replace(
                self,
                words=slice_tensor(self.words, 1, *words),
                zeros=slice_tensor(self.zeros, 1, *share),
                scales=slice_tensor(self.scales, 1, start, end),
            )
        if not self.has_groups_in_order():
            raise KernelInputError("its groups of inputs are out of order, as desc_act makes them")
        if self.scales.shape[0] == 1:
            _refuse_cut(start, end, per_word, "words")
            share = (0, 1)
        else:
            _refuse_cut(start, end, math.lcm(self.group, per_word), "groups")
            share = (start // self.group, end // self.group)
        words = (start, end) if self.layout == "AWQ" else (start // per_word, end // per_word)
        return replace(
            self,
            words=slice_tensor(self.words, 0, *words),
            zeros=slice_tensor(self.zeros, 0, *share),
            scales=slice_tensor(self.scales, 0, *share),
            group_of_I=None,  # in order
        )

    def _read_all(self) -> IntCodes:
        return IntCodes(self._read_codes(), self.scales.load().T.contiguous(), self._read_zeros())

    def _find_order(self) -> torch.Tensor | None:
        """Return the group of each input, None where groups are neighbouring inputs."""
        import torch

        if self.group_of_I is None:
            return None
        groups_I = self.group_of_I.load().long()
        num_groups = self.scales.shape[0]
        if groups_I.shape != (self.shape[1],) or not (
            (groups_I >= 0).all() and (groups_I < num_groups).all()
        ):
            raise KernelInputError(
                f"a {self.format} weight of {self.shape} names groups that it has not: there must "
                f"be one of {num_groups} for each input"
            )
        in_order_I = torch.arange(len(groups_I)) // self.group
        return None if torch.equal(groups_I, in_order_I) else groups_I

    def _read_codes(self) -> torch.Tensor:
        if self.layout == "AWQ":
            return _unpack_columns(self.words.load(), _AWQ_ORDER).T.contiguous()
        # As the columns of the transposed words: neighbouring inputs of one output.
        return _unpack_columns(self.words.load().T, self._find_places())

    def _read_zeros(self) -> torch.Tensor:
        zero_OG = _unpack_columns(self.zeros.load(), self._find_places()).T.contiguous().short()
        return zero_OG + 1 if self.layout == "GPTQ" else zero_OG

    def _find_places(self) -> tuple[int, ...]:
        return _AWQ_ORDER if self.layout == "AWQ" else tuple(range(_WORD_BITS // self.bits))


def _refuse_cut(start: int, end: int, size: int, what: str) -> None:
    """Raise unless a part begins and ends where units of a size do."""
    if start % size or end % size:
        raise KernelInputError(f"{start} to {end} would cut its {what} of {size}")


def _unpack_columns(words: torch.Tensor, places: tuple[int, ...]) -> torch.Tensor:
    """Unpack int32 (R, C) to codes (R, W C), uint8; code n of a word is column `places[n]`."""
    import torch

    per_word = len(places)
    bits = _WORD_BITS // per_word
    codes = torch.empty((*words.shape, per_word), dtype=torch.uint8)
    for number, place in enumerate(places):
        codes[..., place] = (words >> (bits * number) & ((1 << bits) - 1)).to(torch.uint8)
    return codes.flatten(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fp8Tensor:
    """A linear weight in 8-bit floats (e4m3), still in its file.

    Attributes:
        weight: float8_e4m3fn (O, I).
        scales: multiply the weight: one; one an output, (O,) or (O, 1); or one for each block of
            128 x 128, (O / 128, I / 128) rounded up.

    Source: https://arxiv.org/abs/2209.05433
    """

    weight: LazyTensor
    scales: LazyTensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Outputs, inputs."""
        return self.weight.shape

    @property
    def format(self) -> str:
        """As safetensors writes it."""
        return "F8_E4M3"

    @property
    def num_bytes(self) -> int:
        """Bytes in the file."""
        return self.weight.num_bytes + self.scales.num_bytes

    @property
    def has_blocks(self) -> bool:
        """Whether blocks have a scale each, and not outputs, or all of them one."""
        shape = self.scales.shape
        return len(shape) == 2 and tuple(shape) not in {(1, 1), (self.shape[0], 1)}

    def spread_scales(self) -> tuple[torch.Tensor, bool]:
        """Return (scale_O or the scales of blocks, whether they are those of blocks), float32.

        Raises:
            KernelInputError: there are as many scales as none of the three ways has.
        """
        outputs, inputs = self.shape
        scales = self.scales.load().float()
        if scales.numel() == 1:
            return scales.reshape(1).repeat(outputs), False
        if scales.numel() == outputs and scales.shape[0] == outputs:
            return scales.reshape(outputs), False
        blocks = (-(-outputs // FP8_BLOCK), -(-inputs // FP8_BLOCK))
        if scales.shape != blocks:
            raise KernelInputError(
                f"scales of {tuple(scales.shape)} for an fp8 weight of {(outputs, inputs)}: there "
                f"must be one, one an output, or {blocks} for blocks of {FP8_BLOCK}"
            )
        return scales, True

    def load(self) -> torch.Tensor:
        """Dequantise to float32."""
        outputs, inputs = self.shape
        scales, has_blocks = self.spread_scales()
        weight_OI = self.weight.load().float()
        if not has_blocks:
            return weight_OI * scales[:, None]
        scale_OI = scales.repeat_interleave(FP8_BLOCK, 0).repeat_interleave(FP8_BLOCK, 1)
        return weight_OI * scale_OI[:outputs, :inputs]

    def raw(self) -> torch.Tensor:
        """Return the weight's bytes, without the scales."""
        import torch

        return self.weight.load().view(torch.uint8)

    def slice(self, dimension: int, start: int, end: int) -> Fp8Tensor:
        """Return outputs (dimension 0) or inputs, still in the file, with the scales of these.

        Raises:
            KernelInputError: a block with one scale would be cut.
        """
        weight, scales = slice_tensor(self.weight, dimension, start, end), self.scales
        if self.has_blocks:
            is_last = end == self.shape[dimension]
            _refuse_cut(start, start if is_last else end, FP8_BLOCK, "blocks")
            first, last = start // FP8_BLOCK, -(-end // FP8_BLOCK)
            scales = slice_tensor(scales, dimension, first, last)
        elif dimension == 0 and math.prod(scales.shape) > 1:
            scales = slice_tensor(scales, 0, start, end)
        return Fp8Tensor(weight=weight, scales=scales)
