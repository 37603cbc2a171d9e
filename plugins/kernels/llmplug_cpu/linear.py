"""The op `linear`: packs weights into panels; the kernels are in csrc/linear*.cpp.

Legend: T packed tokens, I inputs, O outputs. What a format keeps, and how activations meet it:

- float32, bfloat16: the weights as they are (rounded, if the file has more); float32 activations.
- int8: each output's weights in int8 with one scale; activations in int16 with a scale per token.
- int4: the blocks of Q4_0, Q4_1 and Q8_0 to the bit; activations as with int8.
- w4a8: the same, but 4-bit blocks meet activations in int8 with a scale per block of a token:
  faster where multiplications are the limit, and less exact.

All scales belong to one token, and sums run in one order: a token's result is the same in any
batch, to the bit.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import torch

from llmplug import KeptWeight, KernelInputError
from llmplug_cpu.arena import Arena
from llmplug_cpu.library import as_rows, load_library

if TYPE_CHECKING:
    from llmplug import LazyTensor

_CODES = {"float32": 0, "bfloat16": 1, "int8": 2, "Q4_0": 3, "Q4_1": 4, "Q8_0": 5,
          "Q4_0 a8": 6, "Q4_1 a8": 7}  # fmt: skip
_BLOCK_FORMATS = ("Q4_0", "Q4_1", "Q8_0")
_BLOCK = 32
_PANEL = 16  # outputs of the widest panel


def keep_weight(source: LazyTensor, wanted: str) -> KeptWeight:
    """Say how `pack` will keep one source; see `KernelSpec.keep`."""
    name, reason = choose_format(source, wanted)
    outputs, inputs = source.shape
    num_bytes = load_library().llmplug_packed_bytes(_CODES[name], outputs, inputs)
    return KeptWeight(name, num_bytes, reason)


def choose_format(source: LazyTensor, wanted: str) -> tuple[str, str]:
    """Choose how to keep one source: (format, reason).

    Raises:
        KernelInputError: the format is unknown, or this source cannot be kept in it.
    """
    has_blocks = source.format in _BLOCK_FORMATS and source.shape[1] % _BLOCK == 0
    if wanted == "auto":
        return _choose_best(source, has_blocks=has_blocks)
    if wanted in {"float32", "bfloat16", "int8"}:
        return wanted, "asked for"
    if wanted not in {"int4", "w4a8"}:
        raise KernelInputError(
            f"unknown format {wanted!r}: use auto, float32, bfloat16, int8, int4 or w4a8"
        )
    if not has_blocks:
        raise KernelInputError(
            f"{wanted} keeps the blocks of {', '.join(_BLOCK_FORMATS)} files; this weight is "
            f"{source.format} of width {source.shape[1]}: set the format to int8 or auto"
        )
    return (_with_a8(source.format) if wanted == "w4a8" else source.format), "asked for"


def _choose_best(source: LazyTensor, *, has_blocks: bool) -> tuple[str, str]:
    if has_blocks:
        has_a8 = _with_a8(source.format) != source.format
        more = "; w4a8 is faster under load and less exact" if has_a8 else ""
        return source.format, f"the file's blocks, unchanged, are the smallest{more}"
    if source.format == "BF16":
        return "bfloat16", "the file's numbers, unchanged, at half the bytes of float32"
    if source.format in {"F32", "F16"}:
        return "float32", "the file's numbers, unchanged"
    return "int8", f"{source.format} has no kernel; int8 with a scale per output is close to it"


def _with_a8(block_format: str) -> str:
    """Return the same blocks with 8-bit activations, where there is a kernel for that."""
    name = f"{block_format} a8"
    return name if name in _CODES else block_format


class PackedLinear:
    """What `PanelLinear.pack` makes; the library reads it through `handle`."""

    __slots__ = ("__weakref__", "_keep", "format", "handle", "num_bytes", "num_inputs",
                 "num_outputs", "reason")  # fmt: skip

    def __init__(
        self, num_inputs: int, segments: Sequence[_Segment], bias_O: torch.Tensor | None
    ) -> None:
        library = load_library()
        self.num_inputs = num_inputs
        self.num_outputs = sum(segment.rows for segment in segments)
        self.format = "+".join(dict.fromkeys(segment.format for segment in segments))
        self.reason = "; ".join(dict.fromkeys(segment.reason for segment in segments))
        self.num_bytes = sum(segment.data.nbytes for segment in segments)
        padded = None
        if bias_O is not None:
            padded = torch.zeros(self.num_outputs + _PANEL)
            padded[: self.num_outputs] = bias_O
            self.num_bytes += bias_O.numel() * 4
        self._keep = (padded, [segment.data for segment in segments])
        bias = None if padded is None else padded.data_ptr()
        self.handle: int = library.llmplug_linear_new(num_inputs, self.num_outputs, bias)
        weakref.finalize(self, library.llmplug_linear_free, self.handle)
        first = 0
        for segment in segments:
            library.llmplug_linear_add(
                self.handle, _CODES[segment.format], first, segment.rows, segment.data.data_ptr()
            )
            first += segment.rows


@dataclass(frozen=True, slots=True)
class _Segment:
    """Neighbouring sources of one format."""

    format: str
    reason: str
    rows: int
    data: torch.Tensor  # uint8


class PanelLinear:
    """Twin of `llmplug.ops.DenseLinear`, for dense and quantised weights."""

    def __init__(self) -> None:
        self._library = load_library()
        self._multiply = self._library.llmplug_linear
        self._arena = Arena()

    def pack(
        self,
        sources: Sequence[LazyTensor],
        bias_O: torch.Tensor | None,
        *,
        device: torch.device,
        dtype: torch.dtype,
        format: str = "auto",  # noqa: A002 - the word of checkpoints, configs and reports
    ) -> PackedLinear:
        """Read the sources, join them along dimension 0 and lay them out in panels.

        With `auto` each source is kept as `choose_format` says; sources may differ.

        Raises:
            KernelInputError: a format that a source cannot be kept in, or shapes that do not join.
        """
        shapes = [tuple(source.shape) for source in sources]
        if not shapes or any(len(shape) != 2 or shape[1] != shapes[0][1] for shape in shapes):
            raise KernelInputError(f"cannot join weights of shapes {shapes} along dimension 0")
        num_outputs = sum(shape[0] for shape in shapes)
        if bias_O is not None and tuple(bias_O.shape) != (num_outputs,):
            raise KernelInputError(f"a bias of {tuple(bias_O.shape)} for {num_outputs} outputs")
        chosen = [(choose_format(source, format), source) for source in sources]
        segments = [
            self._pack_segment(name, reason, [source for _, source in group])
            for (name, reason), group in groupby(chosen, key=lambda pair: pair[0])
        ]
        return PackedLinear(shapes[0][1], segments, bias_O)

    def _pack_segment(self, name: str, reason: str, sources: list[LazyTensor]) -> _Segment:
        rows, inputs = sum(source.shape[0] for source in sources), sources[0].shape[1]
        num_bytes = self._library.llmplug_packed_bytes(_CODES[name], rows, inputs)
        data = self._arena.allocate(num_bytes)
        at = 0
        for source in sources:
            self._pack_source(name, source, rows, at, data)
            at += source.shape[0]
        return _Segment(name, reason, rows, data)

    def _pack_source(
        self, name: str, source: LazyTensor, rows: int, at: int, data: torch.Tensor
    ) -> None:
        """Write one source into its segment of `rows` outputs, from output `at` on."""
        library, (count, inputs) = self._library, source.shape
        if source.format in _BLOCK_FORMATS and name.startswith(source.format):
            raw = source.raw().contiguous()
            library.llmplug_pack_blocks(
                _CODES[source.format], raw.data_ptr(), count, inputs, at, data.data_ptr()
            )
            return
        wanted = torch.bfloat16 if name == "bfloat16" else torch.float32
        weight = source.load().to(wanted).contiguous()
        arguments = (weight.data_ptr(), count, inputs, at, data.data_ptr())
        if name == "int8":
            padded_rows = -(-rows // _PANEL) * _PANEL
            scales = data.data_ptr() + padded_rows * (inputs + inputs % 2)
            library.llmplug_pack_int8(*arguments, scales)
        elif name == "bfloat16":
            library.llmplug_pack_bfloat16(*arguments)
        else:
            library.llmplug_pack_float32(*arguments)

    def __call__(self, x_TI: torch.Tensor, packed: PackedLinear) -> torch.Tensor:
        """Return y_TO = x_TI @ weight.T + bias, float32."""
        x_TI = as_rows(x_TI, "x_TI")
        if x_TI.dim() != 2 or x_TI.shape[1] != packed.num_inputs:
            raise KernelInputError(f"x of {tuple(x_TI.shape)} for {packed.num_inputs} inputs")
        num_tokens = x_TI.shape[0]
        y_TO = torch.empty((num_tokens, packed.num_outputs))
        self._multiply(packed.handle, x_TI.data_ptr(), num_tokens, x_TI.stride(0), y_TO.data_ptr())
        return y_TO
