"""Linear layers over packed weights: the torch reference, which serves dense weights.

A kernel owns the layout of what `pack` returns, as an attention kernel owns its cache's. That is
how quantisation stays out of model files. Legend: T packed tokens, I inputs, O outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from llmplug.errors import KernelInputError
from llmplug.ops.table import Op

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmplug.specs import LazyTensor


@dataclass(frozen=True, slots=True)
class DenseWeight:
    """What the reference packs: the joined weight as it is."""

    weight_OI: torch.Tensor
    bias_O: torch.Tensor | None
    format: str  # dtype name

    @property
    def num_bytes(self) -> int:
        """Bytes in memory."""
        bias_bytes = 0 if self.bias_O is None else self.bias_O.nbytes
        return self.weight_OI.nbytes + bias_bytes


class DenseLinear:
    """Reference kernel of the op `linear`."""

    def pack(
        self,
        sources: Sequence[LazyTensor],
        bias_O: torch.Tensor | None,
        *,
        device: torch.device,
        dtype: torch.dtype,
        format: str = "auto",  # noqa: A002 - the word of checkpoints, configs and reports
    ) -> DenseWeight:
        """Read the sources, join them along dimension 0 and lay them out for `__call__`.

        Args:
            sources: weights of (out, in) in their files, at least one.
            bias_O: for all joined outputs, or None.
            format: how numbers are to be kept: auto, float32, bfloat16, int8 or int4. `auto` is
                the kernel's choice, here `dtype`. A single source that is already of this dtype
                and on this device is shared, not copied.

        Raises:
            KernelInputError: a format this kernel does not serve, or shapes that do not join.
        """
        name = dtype_name(dtype)
        if format not in {"auto", name}:
            raise KernelInputError(
                f"the reference linear keeps weights as {name}, not as {format!r}: set the format "
                f"to auto or the dtype to {format}, or add a kernel plugin that serves it"
            )
        return DenseWeight(join_sources(sources, bias_O, device, dtype), _cast(
            bias_O, device, dtype), name)  # fmt: skip

    def __call__(self, x_TI: torch.Tensor, packed: DenseWeight) -> torch.Tensor:
        """Return y_TO = x_TI @ weight.T + bias, in the dtype of x_TI."""
        return F.linear(x_TI, packed.weight_OI, packed.bias_O)


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name that configs and kernels use: `float32`, `bfloat16`."""
    return str(dtype).removeprefix("torch.")


def join_sources(
    sources: Sequence[LazyTensor],
    bias_O: torch.Tensor | None,
    device: torch.device,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Load dense weights and join them along dimension 0: weight_OI.

    Raises:
        KernelInputError: a source is no matrix, or widths differ.
    """
    shapes = [tuple(source.shape) for source in sources]
    if not shapes or any(len(shape) != 2 or shape[1] != shapes[0][1] for shape in shapes):
        raise KernelInputError(f"cannot join weights of shapes {shapes} along dimension 0")
    num_outputs = sum(shape[0] for shape in shapes)
    if bias_O is not None and tuple(bias_O.shape) != (num_outputs,):
        raise KernelInputError(f"a bias of {tuple(bias_O.shape)} for {num_outputs} outputs")
    if len(sources) == 1:
        return sources[0].load().to(device, dtype)
    weight_OI = torch.empty((num_outputs, shapes[0][1]), device=device, dtype=dtype)
    start = 0
    for source, shape in zip(sources, shapes, strict=True):
        weight_OI[start : start + shape[0]] = source.load()
        start += shape[0]
    return weight_OI


def _cast(
    bias_O: torch.Tensor | None, device: torch.device, dtype: torch.dtype
) -> torch.Tensor | None:
    return None if bias_O is None else bias_O.to(device, dtype)


_STORED_NAMES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int32: "I32",
    torch.float8_e4m3fn: "F8_E4M3",
}


@dataclass(frozen=True, slots=True)
class LoadedTensor:
    """A tensor in memory, as a LazyTensor: for examples and tests."""

    tensor: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """In torch order."""
        return tuple(self.tensor.shape)

    @property
    def format(self) -> str:
        """As safetensors writes it."""
        return _STORED_NAMES[self.tensor.dtype]

    @property
    def num_bytes(self) -> int:
        """Bytes in memory."""
        return self.tensor.nbytes

    def load(self) -> torch.Tensor:
        """Return it."""
        return self.tensor

    def raw(self) -> torch.Tensor:
        """Return its bytes, (rows, bytes per row)."""
        return self.tensor.contiguous().view(torch.uint8).reshape(self.tensor.shape[0], -1)

    def slice(self, dimension: int, start: int, end: int) -> LoadedTensor:
        """Return a part, which shares its memory."""
        return LoadedTensor(self.tensor.narrow(dimension, start, end - start))


def _example_inputs(device: torch.device, dtype: torch.dtype) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(6)
    examples = []
    # tokens, inputs, outputs of each source, with a bias
    shapes = [
        (1, 1, (1,), False),
        (1, 576, (576, 192, 192), False),
        (5, 64, (33,), True),
        (8, 96, (64, 32), True),
        (33, 130, (7, 5), False),
        (128, 64, (96,), False),
        (0, 64, (32,), True),
    ]
    for num_tokens, num_inputs, outputs, has_bias in shapes:
        weights = [torch.randn(rows, num_inputs, generator=generator) for rows in outputs]
        bias_O = torch.randn(sum(outputs), generator=generator) if has_bias else None
        x_TI = torch.randn(num_tokens, num_inputs, generator=generator) / num_inputs**0.5
        examples.append({
            "sources": [LoadedTensor(weight.to(dtype)) for weight in weights],
            "bias_O": _cast(bias_O, device, dtype),
            "x_TI": x_TI.to(device, dtype),
        })  # fmt: skip
    return examples


def apply_linear(kernel: Any, example: Mapping[str, Any]) -> torch.Tensor:
    """Pack the example's weights with `kernel` and multiply: y_TO."""
    x_TI = example["x_TI"]
    packed = kernel.pack(
        example["sources"], example["bias_O"], device=x_TI.device, dtype=x_TI.dtype
    )
    y_TO: torch.Tensor = kernel(x_TI, packed)
    return y_TO


def _compare(
    kernel: Any, reference: Any, example: Mapping[str, Any]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(apply_linear(kernel, example), apply_linear(reference, example))]


LINEAR = Op(
    name="linear",
    reference=DenseLinear(),
    # Sums over I in another order: outputs are near 1, errors near sqrt(I) ulps of a product.
    tolerances={"float32": (1e-5, 1e-5), "bfloat16": (1.6e-2, 1.6e-2), "float16": (2e-3, 2e-3)},
    example_inputs=_example_inputs,
    compare=_compare,
)
