"""The table that `llmplug tune` writes: one JSON file for any number of kernels and devices.

A row is the choice for one key: kernel and its source, device, compiler, dtype and shape. What does
not fit what is here now is left alone: the file may serve several machines.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from llmplug.errors import ConfigError

if TYPE_CHECKING:
    from llmplug.ops.tuning import Shape, Sizes, Tunable

_FORMAT = 1
_MEASURED = ("us", "default_us", "gbytes_s", "tflops")
_DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True, kw_only=True)
class RowKey:
    """What a choice holds for.

    Attributes:
        kernel: `op/kernel/tunable`.
        source: hash of the kernel's source.
        shape: names and values.
    """

    kernel: str
    source: str
    device: str
    compiler: str
    dtype: str
    shape: tuple[tuple[str, int | str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningRow:
    """What was found for a key.

    Attributes:
        us: microseconds of a call with these sizes.
        default_us: of a call with the default sizes.
        gbytes_s: read and written a second, at the least; tflops: computed.
        passed_over: sizes that do not work, and why.
    """

    key: RowKey
    sizes: Sizes
    us: float
    default_us: float
    gbytes_s: float
    tflops: float
    passed_over: tuple[tuple[Sizes, str], ...] = ()


@dataclass(frozen=True, slots=True)
class TunedSizes:
    """The rows that hold for one kernel here, as its launcher asks for them."""

    rows: Mapping[tuple[str, torch.dtype, Shape], Sizes] = field(default_factory=dict)
    num_outdated: int = 0  # rows of this kernel and device, but another source or compiler

    def find_sizes(self, tunable: str, dtype: torch.dtype, shape: Shape, default: Sizes) -> Sizes:
        """Return the sizes that were found best for such a call, else the default."""
        return self.rows.get((tunable, dtype, shape), default)


@dataclass(frozen=True, slots=True)
class TuningTable:
    """All rows of a file, and the device that they are to serve."""

    device_type: str
    rows: tuple[TuningRow, ...] = ()

    def choose_rows(self, kernel: str, tunables: Sequence[Tunable]) -> TunedSizes:
        """Take the rows that hold for a kernel, `op/kernel`, as it is now."""
        chosen: dict[tuple[str, torch.dtype, Shape], Sizes] = {}
        num_outdated = 0
        device = name_device(self.device_type)
        for tunable in tunables:
            name, source = f"{kernel}/{tunable.name}", tunable.source()
            for row in self.rows:
                if (row.key.kernel, row.key.device) != (name, device):
                    continue
                is_same = (row.key.source, row.key.compiler) == (source, tunable.compiler)
                if is_same and row.sizes.keys() == tunable.candidates[0].keys():
                    shape = tuple(value for _, value in row.key.shape)
                    chosen[tunable.name, getattr(torch, row.key.dtype), shape] = row.sizes
                else:
                    num_outdated += 1
        return TunedSizes(chosen, num_outdated)


def name_device(device: str) -> str:
    """Return what tables call a device of this type."""
    return torch.cuda.get_device_name() if device == "cuda" else device


def read_table(path: Path) -> list[TuningRow]:
    """Read all rows of a file.

    Raises:
        ConfigError: it cannot be read, or is no such table.
    """
    try:
        written = json.loads(path.read_text())
        if written["format"] != _FORMAT:
            raise ValueError(f"its format is {written['format']!r}, not {_FORMAT}")
        return [_read_row(row) for row in written["rows"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ConfigError(
            f"{path} is no tuning table ({why}): remove it, or write another: llmplug tune"
        ) from error


def _read_row(row: Mapping[str, Any]) -> TuningRow:
    key = RowKey(
        **{name: _text(row[name]) for name in ("kernel", "source", "device", "compiler", "dtype")},
        shape=tuple((_text(name), value) for name, value in row["shape"].items()),
    )
    if key.dtype not in _DTYPES or any(not isinstance(x, int | str) for _, x in key.shape):
        raise ValueError(f"a row of {key.dtype} and the shape {row['shape']!r}")
    return TuningRow(
        key=key,
        sizes=_read_sizes(row["sizes"]),
        us=float(row["us"]),
        default_us=float(row["default_us"]),
        gbytes_s=float(row["gbytes_s"]),
        tflops=float(row["tflops"]),
        passed_over=tuple(
            (_read_sizes(one["sizes"]), _text(one["why"])) for one in row.get("passed_over", ())
        ),
    )


def _read_sizes(sizes: Mapping[str, Any]) -> Sizes:
    is_whole = all(type(value) is int and value >= 0 for value in sizes.values())
    if not sizes or not is_whole:
        raise ValueError(f"sizes {sizes!r} are no whole numbers from 0 on")
    return dict(sizes)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def write_table(path: Path, rows: Sequence[TuningRow]) -> None:
    """Write all rows; whoever reads meanwhile sees the old file or the new one.

    Raises:
        ConfigError: it cannot be written there.
    """
    lines = []
    for row in rows:
        line = {**asdict(row.key), "shape": dict(row.key.shape), "sizes": dict(row.sizes)}
        line |= {name: round(getattr(row, name), 3) for name in _MEASURED}
        line["passed_over"] = [{"sizes": dict(sizes), "why": why} for sizes, why in row.passed_over]
        lines.append(json.dumps(line))
    text = f'{{"format": {_FORMAT}, "rows": [\n' + ",\n".join(lines) + "\n]}\n"
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(text)
        new.replace(path)
    except OSError as error:
        raise ConfigError(f"cannot write the tuning table {path}: {error.strerror}") from error


def make_key(
    kernel: str, tunable: Tunable, device: str, dtype: torch.dtype, shape: Shape
) -> RowKey:
    """Return the key of a choice that is made here and now.

    Args:
        kernel: `op/kernel`.
        device: as `name_device` returns it.
    """
    return RowKey(
        kernel=f"{kernel}/{tunable.name}",
        source=tunable.source(),
        device=device,
        compiler=tunable.compiler,
        dtype=str(dtype).removeprefix("torch."),
        shape=tuple(zip(tunable.shape_names, shape, strict=True)),
    )
