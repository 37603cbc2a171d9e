"""Dense layers between pooling and the embedding: loaded once, run over the texts of a step.

Legend: N texts of a step, D model width, E width of an embedding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from llmplug.dense_module import BIAS, WEIGHT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from llmplug.ops import KernelTable
    from llmplug.pooling import Activation, DenseLayer
    from llmplug.specs import BuildContext, Checkpoint

    Change = Callable[[torch.Tensor], torch.Tensor]

_CHANGES: Mapping[Activation, Change] = {
    "none": lambda numbers: numbers,
    "tanh": torch.tanh,
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
}


class DenseStack:
    """Layers in their order.

    Args:
        layers: weights as `ops.linear` packed them, and what is done after each.
        dtype: of what is computed with.
    """

    def __init__(
        self, ops: KernelTable, layers: Sequence[tuple[Any, Activation]], dtype: torch.dtype
    ) -> None:
        self._ops = ops
        self._layers = [(packed, _CHANGES[activation]) for packed, activation in layers]
        self._dtype = dtype

    def __call__(self, pooled_ND: torch.Tensor) -> torch.Tensor:
        """Return embedded_NE, float32."""
        numbers = pooled_ND.to(self._dtype)
        for packed, change in self._layers:
            numbers = change(self._ops.linear(numbers, packed))
        return numbers.float()


def load_dense(
    checkpoint: Checkpoint, layers: Sequence[DenseLayer], context: BuildContext
) -> DenseStack:
    """Read the layers' weights, which were held against their shapes before."""
    packed: list[tuple[Any, Activation]] = []
    for layer in layers:
        tensors = checkpoint.module_tensors[layer.folder]
        bias = tensors[BIAS].load().to(context.device, context.dtype) if layer.has_bias else None
        weight = context.ops.linear.pack(
            [tensors[WEIGHT]], bias, device=context.device, dtype=context.dtype
        )
        packed.append((weight, layer.activation))
    return DenseStack(context.ops, packed, context.dtype)
