"""Linear layers over weights in oneDNN's blocked layout.

The two torch ops used here are private, so `find_reason_against` looks for them first.
Legend: T packed tokens, I inputs, O outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from llmplug import KernelInputError
from llmplug.ops import join_sources

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmplug import LazyTensor

# The number of rows that oneDNN is told to expect when it chooses a layout. Measured in us, torch
# 2.13, 2 cores of an EPYC Zen 3 (AVX2), weights beyond the cache, this against the next best of
# F.linear, mm on a transposed copy, rows padded to 16, and one row at a time:
#   I x O         1 row        4 rows       8 rows       16 rows       32 rows
#   576 x 960     160 / 180    136 / 183    408 / 328    251 / 457     378 / 555
#   576 x 3072    470 / 380    371 / 448    459 / 808    634 / 1400    1118 / 2109
#   1536 x 576    198 / 203    290 / 282    347 / 423    469 / 619     704 / 817
#   576 x 49152   4764 / 4880  7273 / 7703  7645 / 10762 11896 / 29487 16933 / 37124
# A layout chosen for the real number of rows is as fast, so one layout serves all of them.
_EXPECTED_ROWS = 16


@dataclass(frozen=True, slots=True)
class PrepackedWeight:
    """A weight in oneDNN's layout, which only oneDNN can read."""

    blocks: torch.Tensor
    bias_O: torch.Tensor | None
    num_outputs: int
    num_bytes: int
    format: str = "float32"


class PrepackedLinear:
    """Kernel of the op `linear`; see `llmplug.ops.linear.DenseLinear` for the contract."""

    def pack(
        self,
        sources: Sequence[LazyTensor],
        bias_O: torch.Tensor | None,
        *,
        device: torch.device,
        dtype: torch.dtype,
        format: str = "auto",  # noqa: A002 - the contract's name
    ) -> PrepackedWeight:
        """Read, join and reorder the weights; the packed copy is the only one that is kept."""
        if format not in {"auto", "float32"}:
            raise KernelInputError(
                f"the onednn linear keeps weights as float32, not as {format!r}: set the format to "
                "auto, or block this kernel for another that serves it"
            )
        if device.type != "cpu" or dtype != torch.float32:
            raise KernelInputError(
                f"the onednn linear runs on cpu in float32, not {device}, {dtype}"
            )
        weight_OI = join_sources(sources, bias_O, device, dtype).contiguous()
        bias_bytes = 0 if bias_O is None else bias_O.nbytes
        return PrepackedWeight(
            blocks=torch.ops.mkldnn._reorder_linear_weight(weight_OI, _EXPECTED_ROWS),
            bias_O=bias_O,
            num_outputs=weight_OI.shape[0],
            num_bytes=weight_OI.nbytes + bias_bytes,
        )

    def __call__(self, x_TI: torch.Tensor, packed: PrepackedWeight) -> torch.Tensor:
        """Return y_TO = x_TI @ weight.T + bias."""
        if x_TI.shape[0] == 0:  # oneDNN has no empty matrices
            return x_TI.new_empty(0, packed.num_outputs)
        y_TO: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            x_TI.contiguous(), packed.blocks, packed.bias_O, "none", [], ""
        )
        return y_TO


def find_reason_against() -> str | None:
    """Return why this torch cannot run the kernel, or None."""
    if not torch._C._has_mkldnn:
        return "this build of torch has no oneDNN"
    for name in ("_reorder_linear_weight", "_linear_pointwise"):
        if not hasattr(torch.ops.mkldnn, name):
            return f"this torch ({torch.__version__}) lacks the op mkldnn::{name}"
    return None
