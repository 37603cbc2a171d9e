"""Weights as GPTQ and AWQ write them: packed here number by number, as their formats say."""

from __future__ import annotations

import torch

from llmplug.ops import LoadedTensor, PackedIntTensor

# The bits of a word that hold output 0, 1, 2, ... of eight: AWQ deals them out in two hands.
AWQ_SHIFTS = (0, 16, 4, 20, 8, 24, 12, 28)


def make_numbers(
    outputs: int, inputs: int, group: int, seed: int, bits: int = 4
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(codes (I, O), zeros (G, O), scales (G, O))."""
    generator = torch.Generator().manual_seed(seed)
    codes_IO = torch.randint(1 << bits, (inputs, outputs), generator=generator)
    zeros_GO = torch.randint(1, 1 << bits, (inputs // group, outputs), generator=generator)
    scales_GO = (torch.rand(inputs // group, outputs, generator=generator) + 0.1).half()
    return codes_IO, zeros_GO, scales_GO


def pack_columns(codes: torch.Tensor, shifts: tuple[int, ...]) -> torch.Tensor:
    """As many neighbouring columns in a word as there are shifts, column c at bit `shifts[c]`."""
    words = [
        [
            sum(code << shift for code, shift in zip(row[first:], shifts, strict=False))
            for first in range(0, len(row), len(shifts))
        ]
        for row in codes.tolist()
    ]
    return torch.tensor(words, dtype=torch.int64).to(torch.int32)  # the top bit becomes the sign


def make_int_tensor(
    layout: str,
    outputs: int,
    inputs: int,
    group: int,
    *,
    seed: int = 0,
    bits: int = 4,
    is_in_order: bool = True,
) -> PackedIntTensor:
    codes_IO, zeros_GO, scales_GO = make_numbers(outputs, inputs, group, seed, bits)
    if bits == 8 and layout == "GPTQ":
        zeros_GO[0, 0] = 256  # stored less one: the greatest
        codes_IO[0, 0] = 0
    order_I = None
    in_turn = tuple(range(0, 32, bits))
    if layout == "AWQ":
        words, zeros = pack_columns(codes_IO, AWQ_SHIFTS), pack_columns(zeros_GO, AWQ_SHIFTS)
    else:
        words = pack_columns(codes_IO.T, in_turn).T.contiguous()
        zeros = pack_columns(zeros_GO - int(layout == "GPTQ"), in_turn)
    if not is_in_order:
        order_I = LoadedTensor((torch.arange(inputs) % (inputs // group)).int())
    return PackedIntTensor(
        layout=layout,
        words=LoadedTensor(words),
        zeros=LoadedTensor(zeros),
        scales=LoadedTensor(scales_GO),
        group_of_I=order_I,
        bits=bits,
    )
