"""Faster twins of ops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmplug.ops import Tunable
    from llmplug.specs.files import LazyTensor


@dataclass(frozen=True, slots=True)
class KeptWeight:
    """How a kernel keeps a weight in memory."""

    format: str
    num_bytes: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSpec:
    """A faster twin of one op of `llmplug.ops`.

    Attributes:
        op: name of the op: `rms_norm`, `linear`, `attention`, ...
        name: of this kernel, for the report: `onednn`.
        supports: (device type such as `cpu`, dtype name such as `float32`) -> None if it runs
            there, else the reason why not.
        load: makes the kernel: same signature as the reference. Called once, in the engine; with
            a `llmplug.ops.Tuning` where there are `tunables` and a table of their best sizes.
        priority: higher wins among those that support the device.
        keep: for the op `linear`: (weight in its file, wanted format) -> how `pack` will keep it;
            reads no weight. None, or a None that it returns: dense, in the dtype of the model.
            Raises KernelInputError.
        needs: for a kernel that fuses other ops, such as `decoder_layer`: ops whose packed weights
            or caches it reads. It is chosen only where kernels of its own name serve these.
        supports_scales: for an op that reads or fills caches (`attention`, `rope_store`,
            `decoder_layer`): device type -> None if it heeds the scales of a `KVCache` of 8-bit
            floats there, else the reason why not. None: it knows none, and gets no such cache.
        tunables: device type -> the free parameters that `llmplug tune` can try there, also where
            the kernel only runs to be tested. None: it has none.
    """

    op: str
    name: str
    supports: Callable[[str, str], str | None]
    load: Callable[..., Any]
    priority: int = 0
    keep: Callable[[LazyTensor, str], KeptWeight | None] | None = None
    needs: tuple[str, ...] = ()
    supports_scales: Callable[[str], str | None] | None = None
    tunables: Callable[[str], Sequence[Tunable]] | None = None
