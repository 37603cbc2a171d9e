"""How the op `linear` keeps a weight in few bits: which format, and the packing.

- int8: each output's numbers are whole numbers of one scale, rounded to the nearest.
- Q8_0, Q4_0, Q4_1: the blocks of a GGUF file, their numbers to the bit.
- GPTQ, AWQ: the codes, zeros and scales of such a checkpoint.
- F8_E4M3: the 8-bit floats of a checkpoint, with its scales for outputs or blocks of 128 x 128.
- int4: groups of 64 inputs in 16 steps between their least and greatest number, rounded here.
- fp8: 8-bit floats with a scale an output, rounded here.

Legend: O outputs, I inputs, G groups of inputs, C codes of a group.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from llmplug import KeptWeight, KernelInputError
from llmplug.ops import Fp8Tensor, PackedIntTensor
from llmplug_triton.scaled_product import (
    MINIMUM_STORED,
    ZERO_8,
    ZERO_STORED,
    ScaledWeight,
    choose_block,
)
from llmplug_triton.tensors import refuse_gpu_without_fp8

if TYPE_CHECKING:
    from llmplug import LazyTensor

GGUF_BLOCKS = {"Q4_0": 18, "Q4_1": 20, "Q8_0": 34}  # bytes of 32 numbers
_GGUF_GROUP = 32
_INT4_GROUP = 64
_LARGEST_INT8 = 127  # -128 is left out: scales are symmetric
_LARGEST_FP8 = 448.0
_FP8_BLOCK = 128


def choose_format(source: LazyTensor, wanted: str) -> str | None:
    """Choose how to keep one source, from its header; None: dense.

    Raises:
        KernelInputError: it cannot be kept in the wanted format.
    """
    if wanted == "w4a8":
        raise KernelInputError("the Triton kernels keep activations as they are: use int4 or auto")
    own = _find_own_format(source)
    if wanted in {"int8", "fp8"}:
        return own if wanted == "fp8" and own == "F8_E4M3" else wanted
    if wanted == "auto":
        return own
    if wanted == "int4":
        return "int4" if own in {None, "F8_E4M3"} else own
    return None


def _find_own_format(source: LazyTensor) -> str | None:
    """Return the format of the file if its numbers can stay as they are and are not dense."""
    if source.format in GGUF_BLOCKS:
        return source.format if source.shape[1] % _GGUF_GROUP == 0 else None
    if isinstance(source, PackedIntTensor):
        is_known = source.group % _GGUF_GROUP == 0 and source.has_groups_of_one_size()
        return source.format if is_known else None
    return source.format if isinstance(source, Fp8Tensor) else None


def keep_weight(source: LazyTensor, wanted: str) -> KeptWeight | None:
    """Say how `Linear.pack` will keep one source; see `KernelSpec.keep`."""
    name = choose_format(source, wanted)
    if name is None:
        return None
    why = "asked for" if name == wanted else "the file's numbers, unchanged, are the smallest"
    return KeptWeight(name, _count_bytes(source, name), why)


def _count_bytes(source: LazyTensor, name: str) -> int:
    outputs, inputs = source.shape
    if name in GGUF_BLOCKS:
        return outputs * inputs // _GGUF_GROUP * GGUF_BLOCKS[name]
    if name == "int4":
        return outputs * -(-inputs // _INT4_GROUP) * (_INT4_GROUP // 2 + 4)
    if isinstance(source, PackedIntTensor) and name == source.format:
        groups = source.scales.shape[0]
        scale_bytes = source.scales.num_bytes // (outputs * groups)
        zero_bytes = 1 if source.bits == 4 else 2
        order_bytes = 0 if source.has_groups_in_order() else 4 * inputs
        codes_bytes = outputs * inputs * source.bits // 8
        return codes_bytes + outputs * groups * (scale_bytes + zero_bytes) + order_bytes
    num_scales = outputs
    if isinstance(source, Fp8Tensor) and name == source.format:
        shape = source.scales.shape
        num_scales = shape[0] * shape[1] if len(shape) == 2 and shape[1] > 1 else outputs
    return outputs * inputs + 4 * num_scales


def pack_source(source: LazyTensor, name: str, device: torch.device) -> ScaledWeight:
    """Read one source and lay it out in the format that `choose_format` said.

    Raises:
        KernelInputError: its scales do not fit it, or the GPU has no 8-bit floats.
    """
    if name in {"F8_E4M3", "fp8"}:
        refuse_gpu_without_fp8(device, "weights.format to int8")
    if name in GGUF_BLOCKS:
        return _PACK_GGUF[name](source.raw().to(device).contiguous(), source.shape[1])
    if isinstance(source, PackedIntTensor) and name == source.format:
        return _pack_codes(source, device)
    if isinstance(source, Fp8Tensor) and name == source.format:
        return _pack_fp8(source, device)
    weight_OI = source.load().to(device, torch.float32)
    return _ROUND[name](weight_OI)


def _pack_q4_0(raw: torch.Tensor, num_inputs: int) -> ScaledWeight:
    blocks = raw.view(raw.shape[0], -1, GGUF_BLOCKS["Q4_0"])
    return ScaledWeight(
        format="Q4_0",
        code=blocks[..., 2:].flatten(1).contiguous(),
        scale=_read_halves(blocks, 0),
        num_inputs=num_inputs,
        group=_GGUF_GROUP,
        is_int4=True,
        zero=ZERO_8,
    )


def _pack_q4_1(raw: torch.Tensor, num_inputs: int) -> ScaledWeight:
    blocks = raw.view(raw.shape[0], -1, GGUF_BLOCKS["Q4_1"])
    return ScaledWeight(
        format="Q4_1",
        code=blocks[..., 4:].flatten(1).contiguous(),
        scale=_read_halves(blocks, 0),
        num_inputs=num_inputs,
        group=_GGUF_GROUP,
        is_int4=True,
        zero=MINIMUM_STORED,
        shift_OG=_read_halves(blocks, 2),
    )


def _pack_q8_0(raw: torch.Tensor, num_inputs: int) -> ScaledWeight:
    blocks = raw.view(raw.shape[0], -1, GGUF_BLOCKS["Q8_0"])
    return ScaledWeight(
        format="Q8_0",
        code=blocks[..., 2:].flatten(1).contiguous().view(torch.int8),
        scale=_read_halves(blocks, 0),
        num_inputs=num_inputs,
        group=_GGUF_GROUP,
    )


def _read_halves(blocks_OGB: torch.Tensor, offset: int) -> torch.Tensor:
    """Read the float16 that begins at a byte of each block: (O, G)."""
    return blocks_OGB[..., offset : offset + 2].contiguous().view(torch.float16)[..., 0]


def _pack_codes(source: PackedIntTensor, device: torch.device) -> ScaledWeight:
    codes, order_I = source.codes_by_group()
    is_int4 = source.bits == 4
    code_OI = codes.code_OI.to(device)
    # 8 bits may have a zero of 256.
    zero_dtype = torch.uint8 if is_int4 else torch.int16
    return ScaledWeight(
        format=source.format,
        code=_pair_codes(code_OI, choose_block(source.group)) if is_int4 else code_OI.contiguous(),
        scale=codes.scale_OG.to(device).contiguous(),
        num_inputs=source.shape[1],
        group=source.group,
        is_int4=is_int4,
        zero=ZERO_STORED,
        shift_OG=codes.zero_OG.to(device, zero_dtype).contiguous(),
        order_I=None if order_I is None else order_I.to(device),
    )


def _pair_codes(code_OI: torch.Tensor, block: int) -> torch.Tensor:
    """Put two codes of a block, half of it apart, into each byte."""
    low, high = code_OI.view(code_OI.shape[0], -1, 2, block // 2).unbind(2)
    return torch.bitwise_or(low, high << 4).flatten(1).contiguous()


def _pack_fp8(source: Fp8Tensor, device: torch.device) -> ScaledWeight:
    scales, has_blocks = source.spread_scales()
    return ScaledWeight(
        format=source.format,
        code=source.weight.load().to(device).contiguous(),
        scale=(scales if has_blocks else scales[:, None]).to(device).contiguous(),
        num_inputs=source.shape[1],
        group=_FP8_BLOCK if has_blocks else _round_up(source.shape[1], _FP8_BLOCK),
        outputs_per_scale=_FP8_BLOCK if has_blocks else 1,
    )


def _round_to_int8(weight_OI: torch.Tensor) -> ScaledWeight:
    scale_O = weight_OI.abs().amax(1) / _LARGEST_INT8
    return ScaledWeight(
        format="int8",
        code=(weight_OI / _as_divisor(scale_O)[:, None]).round_().to(torch.int8),
        scale=scale_O[:, None],
        num_inputs=weight_OI.shape[1],
        group=_round_up(weight_OI.shape[1], _INT4_GROUP),
    )


def _round_to_fp8(weight_OI: torch.Tensor) -> ScaledWeight:
    scale_O = weight_OI.abs().amax(1) / _LARGEST_FP8
    code = (weight_OI / _as_divisor(scale_O)[:, None]).clamp_(-_LARGEST_FP8, _LARGEST_FP8)
    return ScaledWeight(
        format="fp8",
        code=code.to(torch.float8_e4m3fn),
        scale=scale_O[:, None],
        num_inputs=weight_OI.shape[1],
        group=_round_up(weight_OI.shape[1], _FP8_BLOCK),
    )


def _round_to_int4(weight_OI: torch.Tensor) -> ScaledWeight:
    outputs, inputs = weight_OI.shape
    # The last group is filled up with its last number, which moves neither end of its range.
    padding = weight_OI[:, -1:].expand(-1, _round_up(inputs, _INT4_GROUP) - inputs)
    weight_OGC = torch.cat((weight_OI, padding), 1).view(outputs, -1, _INT4_GROUP)
    least_OG, greatest_OG = weight_OGC.aminmax(dim=2)
    # Codes are those of the scale and minimum as they are kept.
    scale_OG, least_OG = ((greatest_OG - least_OG) / 15).half(), least_OG.half()
    steps_OGC = (weight_OGC - least_OG[..., None].float()) / _as_divisor(scale_OG)[..., None]
    code_OI = steps_OGC.round_().clamp_(0, 15).to(torch.uint8).flatten(1)
    return ScaledWeight(
        format="int4",
        code=_pair_codes(code_OI, choose_block(_INT4_GROUP)),
        scale=scale_OG,
        num_inputs=inputs,
        group=_INT4_GROUP,
        is_int4=True,
        zero=MINIMUM_STORED,
        shift_OG=least_OG,
    )


def _as_divisor(scale: torch.Tensor) -> torch.Tensor:
    """Return the scale to divide by: zeros, and scales that have lost their digits, make zeros."""
    scale = scale.float()
    return torch.where((1 / scale).isinf(), torch.inf, scale)


def _round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


_PACK_GGUF: dict[str, Callable[[torch.Tensor, int], ScaledWeight]] = {
    "Q4_0": _pack_q4_0,
    "Q4_1": _pack_q4_1,
    "Q8_0": _pack_q8_0,
}
_ROUND: dict[str, Callable[[torch.Tensor], ScaledWeight]] = {
    "int8": _round_to_int8,
    "int4": _round_to_int4,
    "fp8": _round_to_fp8,
}
