"""The weight files of a folder, mapped; numbers are read when they are asked for.

torch is imported by the first that is read: a server opens files too, and needs no numbers.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from llmplug import CheckpointError
from llmplug_safetensors.json_files import read_object

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from llmplug import LazyTensor

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth")
_NAMES_SHOWN = 3
# Bits of the format's dtypes: https://github.com/safetensors/safetensors
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6,
    "F6_E3M2": 6, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


class Shard:
    """One weight file.

    Raises:
        CheckpointError: it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header = self._open("numpy")  # for names, shapes and formats alone

    @functools.cached_property
    def reader(self) -> Any:
        """The file once more, giving tensors of torch."""
        return self._open("pt")

    def _open(self, framework: str) -> Any:
        try:
            return safe_open(self.path, framework=framework)
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(
                f"{self.path}: damaged or truncated safetensors file: {error}; fetch it again"
            ) from error


@dataclass(frozen=True, slots=True)
class SafetensorsTensor:
    """One tensor or a part of one; a `llmplug.LazyTensor` and a `llmplug.SliceableTensor`.

    Attributes:
        shape: of the part.
        format: the file's name of the dtype: `BF16`, `F8_E4M3`, ...
        part: where the part begins and ends in each dimension; None: it is all of the tensor.
    """

    shard: Shard
    name: str
    shape: tuple[int, ...]
    format: str
    part: tuple[slice, ...] | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes in the file; an unknown format counts as 32 bits."""
        return math.prod(self.shape) * _BITS.get(self.format, 32) // 8

    def load(self) -> torch.Tensor:
        """Read it as stored, without a copy where the file is mapped.

        Raises:
            CheckpointError: torch has no such dtype.
        """
        reader = self.shard.reader
        try:
            if self.part is not None:
                part: torch.Tensor = reader.get_slice(self.name)[self.part]
                return part.contiguous()  # columns do not keep whole pages
            tensor: torch.Tensor = reader.get_tensor(self.name)
        except (SafetensorError, AttributeError, TypeError, RuntimeError, OSError) as error:
            what = f"{self.shard.path}: tensor {self.name} of format {self.format}"
            raise CheckpointError(f"{what} cannot be read: {error}") from error
        return tensor

    def raw(self) -> torch.Tensor:
        """Return the bytes as stored, uint8, (rows, bytes per row)."""
        import torch

        tensor = self.load()
        rows = math.prod(self.shape[:-1])
        width = self.shape[-1] if self.shape else 1
        return tensor.reshape(rows, width).view(torch.uint8)

    def slice(self, dimension: int, start: int, end: int) -> SafetensorsTensor:
        """Return a part; of the file, the pages that it is in are read."""
        part = list(self.part or (slice(0, size) for size in self.shape))
        first = part[dimension].start
        part[dimension] = slice(first + start, first + end)
        shape = tuple(each.stop - each.start for each in part)
        return replace(self, shape=shape, part=tuple(part))


def find_weight_files(path: Path) -> tuple[list[Path], dict[str, str]]:
    """Find the weight files of a folder, or take the one file that `path` is.

    Returns:
        The files, and from the index the name of the file of each tensor; empty without an index.

    Raises:
        CheckpointError: there are none, only pickles, or a shard is missing.
    """
    if path.is_file():
        return [path], {}
    if (path / SINGLE_FILE).is_file():
        return [path / SINGLE_FILE], {}
    index = read_object(path / INDEX_FILE)
    if index is not None:
        return _read_index(path, index)
    files = sorted(path.glob("*.safetensors"))
    if len(files) == 1 and not files[0].name.startswith("adapter"):
        return files, {}
    if files:
        names = ", ".join(file.name for file in files[:_NAMES_SHOWN])
        raise CheckpointError(
            f"{path}: neither {SINGLE_FILE} nor {INDEX_FILE} is there, only {names}; "
            "an adapter must be merged into its model first"
        )
    pickles = sorted(file for pattern in _PICKLES for file in path.glob(pattern))
    if pickles:
        raise CheckpointError(
            f"{path}: holds only pickled weights ({pickles[0].name}), which are never loaded, "
            "because reading a pickle runs code; convert them where that does no harm, with "
            "transformers: AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder)"
        )
    raise CheckpointError(f"{path}: holds no weights; {SINGLE_FILE} is missing")


def open_tensors(files: Sequence[Path], file_of: dict[str, str]) -> dict[str, LazyTensor]:
    """Map weight files and list their tensors.

    Args:
        file_of: what the index says; each of its tensors must be in the file that it names.

    Raises:
        CheckpointError: a file is damaged, or is not what the index says.
    """
    tensors: dict[str, LazyTensor] = {}
    for path in files:
        shard = Shard(path)
        for name in shard.header.keys():  # noqa: SIM118 - no dict: it cannot be iterated
            if name in tensors:
                raise CheckpointError(f"{path}: tensor {name} is in another file too")
            entry = shard.header.get_slice(name)
            tensors[name] = SafetensorsTensor(
                shard, name, tuple(entry.get_shape()), str(entry.get_dtype())
            )
        lost = [name for name, file in file_of.items() if file == path.name and name not in tensors]
        if lost:
            raise CheckpointError(f"{path}: lacks {lost[0]}, which {INDEX_FILE} says is there")
    return tensors


def _read_index(folder: Path, index: dict[str, Any]) -> tuple[list[Path], dict[str, str]]:
    file_of = index.get("weight_map")
    if not isinstance(file_of, dict) or not file_of:
        raise CheckpointError(f"{folder / INDEX_FILE}: has no weight_map")
    for name in file_of.values():
        # A name only: a path could lead out of the folder, to any file of the user.
        is_name = isinstance(name, str) and Path(name).name == name and "\\" not in name
        if not is_name or not name.endswith(".safetensors"):
            raise CheckpointError(
                f"{folder / INDEX_FILE}: {name!r} is not the name of a .safetensors file"
            )
    files = [folder / name for name in sorted(set(file_of.values()))]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        names = ", ".join(missing[:_NAMES_SHOWN])
        raise CheckpointError(
            f"{folder}: {len(missing)} of {len(files)} weight files are missing: {names}"
        )
    return files, file_of
