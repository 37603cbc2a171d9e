"""How the kernels' free parameters are declared, and looked up when a kernel is launched."""

from __future__ import annotations

import hashlib
import inspect
import itertools
from functools import partial
from typing import TYPE_CHECKING, Any

import triton

from llmplug.ops import ROW_BUCKETS, Sizes, Tunable

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from llmplug.ops import Shape, Tuning


def find_sizes(
    tuning: Tuning | None, tunable: str, dtype: torch.dtype, shape: Shape, default: Sizes
) -> Sizes:
    """Return the sizes that were found best for a launch, else the default."""
    return default if tuning is None else tuning.find_sizes(tunable, dtype, shape, default)


def make_tunable(kernel: Any, **fields: Any) -> Tunable:
    """Describe the free parameters of a kernel, a function of `triton.jit`."""
    compiler = f"triton {triton.__version__}"
    return Tunable(compiler=compiler, source=partial(hash_source, kernel), **fields)


def cross(**values: tuple[int, ...]) -> tuple[Sizes, ...]:
    """Return every combination of the values."""
    rows = itertools.product(*values.values())
    return tuple(dict(zip(values, row, strict=True)) for row in rows)


def list_rows(device: torch.device) -> tuple[int, ...]:
    """Return the numbers of rows to time; one on CPUs, whose interpreter takes its time."""
    return ROW_BUCKETS if device.type == "cuda" else ROW_BUCKETS[:1]


def hash_source(kernel: Any) -> str:
    """Hash the source of a kernel and of all that it calls, and the constants that they name."""
    digest = hashlib.sha256()
    for text in _list_sources(kernel, set()):
        digest.update(text.encode())
    return digest.hexdigest()[:16]


def _list_sources(kernel: Any, seen: set[str]) -> Iterator[str]:
    function = kernel.fn
    name = f"{function.__module__}.{function.__qualname__}"
    if name in seen:
        return
    seen.add(name)
    yield inspect.getsource(function)
    for word in sorted(function.__code__.co_names):
        value = function.__globals__.get(word)
        if isinstance(value, int | float | str):
            yield f"{word} = {value!r}"
        elif hasattr(value, "fn"):  # another function of triton.jit
            yield from _list_sources(value, seen)
