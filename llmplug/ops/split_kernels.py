"""Ops over weights of which each rank holds a part: what the ranks compute is put together here.

A model calls the same ops whether it is divided or not. Legend: T packed tokens, D model width,
I inputs, O outputs, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llmplug.ops.decoder_layer import ComposedDecoderLayer

if TYPE_CHECKING:
    import torch

    from llmplug.ops.collective import Collective
    from llmplug.ops.table import KernelChoice, KernelTable
    from llmplug.specs import LazyTensor

_NO_COLLECTIVES = "it does not know of ranks, which sum up within a layer"


@dataclass(frozen=True, slots=True)
class SummedWeight:
    """A packed weight with some of the inputs: products of all ranks are summed."""

    packed: Any


@dataclass(frozen=True, slots=True)
class GatheredWeight:
    """A packed weight with some of the outputs, which every rank wants whole."""

    packed: Any
    widths: tuple[int, ...]  # outputs of each rank


@dataclass(frozen=True, slots=True)
class SplitTable:
    """The rows of an embedding for some of the tokens."""

    table_VD: torch.Tensor
    first: int  # id of the token of row 0


class SplitLinear:
    """The op `linear` of a rank; weights that are divided by outputs alone need no more."""

    def __init__(self, linear: Any, collective: Collective) -> None:
        self._linear = linear
        self._collective = collective

    def pack(
        self, sources: Sequence[LazyTensor], bias_O: torch.Tensor | None, **options: Any
    ) -> Any:
        """Pack as the kernel does."""
        return self._linear.pack(sources, bias_O, **options)

    def __call__(self, x_TI: torch.Tensor, packed: Any) -> torch.Tensor:
        """Return y_TO of all ranks' weights, or of this rank's where each goes on with its own."""
        y_TO: torch.Tensor
        if isinstance(packed, SummedWeight):
            y_TO = self._collective.all_reduce(self._linear(x_TI, packed.packed))
        elif isinstance(packed, GatheredWeight):
            y_TO = self._linear(x_TI, packed.packed)
            y_TO = self._collective.all_gather(y_TO, packed.widths)
        else:
            y_TO = self._linear(x_TI, packed)
        return y_TO


class SplitEmbed:
    """The op `embed` of a rank."""

    def __init__(self, embed: Any, collective: Collective) -> None:
        self._embed = embed
        self._collective = collective

    def __call__(
        self, token_ids_T: torch.Tensor, table_VD: torch.Tensor | SplitTable
    ) -> torch.Tensor:
        """Look up the row of each token: one rank has it, and the others add zeros."""
        x_TD: torch.Tensor
        if not isinstance(table_VD, SplitTable):
            x_TD = self._embed(token_ids_T, table_VD)
            return x_TD
        rows_T = token_ids_T - table_VD.first
        here_T = rows_T.clamp(0, len(table_VD.table_VD) - 1)
        x_TD = self._embed(here_T, table_VD.table_VD)
        return self._collective.all_reduce(x_TD.masked_fill_((rows_T != here_T)[:, None], 0))


def split_kernels(ops: KernelTable, collective: Collective) -> KernelTable:
    """Return a rank's table: `linear` and `embed` know divided weights, and what is left stays.

    Whole layers are composed of other ops, as a kernel that fuses them cannot stop for a sum.
    """
    kernels: dict[str, Any] = {
        "linear": SplitLinear(ops.linear, collective),
        "embed": SplitEmbed(ops.embed, collective),
    }
    table = ops.replace(kernels, refuse_fused_layers(ops.choices))
    return table.replace({"decoder_layer": ComposedDecoderLayer(table)}, table.choices)


def refuse_fused_layers(choices: Sequence[KernelChoice]) -> tuple[KernelChoice, ...]:
    """Take the kernel of whole layers out of a choice, and say why."""
    return tuple(_refuse(choice) if choice.op == "decoder_layer" else choice for choice in choices)


def _refuse(choice: KernelChoice) -> KernelChoice:
    if choice.plugin is None:
        return choice
    refused = (*choice.refused, (choice.kernel, _NO_COLLECTIVES))
    return replace(choice, kernel="composed", plugin=None, refused=refused, spare=())
