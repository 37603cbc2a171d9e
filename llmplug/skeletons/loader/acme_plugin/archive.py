"""Read a `.acme` file: headers when it is opened, numbers when they are asked for."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.lib import format as npy

from llmplug import CheckpointError, TokenizerFiles

if TYPE_CHECKING:
    import torch

_FORMATS = {"<f4": "F32", "<f2": "F16"}


class Archive:
    """An opened file; see `llmplug.Checkpoint`."""

    generation_config: Mapping[str, Any] | None = None
    json_files: Mapping[str, Any] = {}

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = (path,)
        try:
            with zipfile.ZipFile(path) as file:
                self.config: Mapping[str, Any] = json.loads(file.read("config.json"))
                names = [name for name in file.namelist() if name.endswith(".npy")]
                self.tensors = {
                    name.removesuffix(".npy"): _read_header(path, name, file.read(name))
                    for name in names
                }
        except (OSError, KeyError, ValueError, zipfile.BadZipFile, EOFError) as error:
            raise CheckpointError(f"{path} is damaged: {error}") from error

    @cached_property
    def tokenizer(self) -> TokenizerFiles:
        """The tokenizer.json that lies in the archive."""
        try:
            with zipfile.ZipFile(self.path) as file:
                return TokenizerFiles(json=file.read("tokenizer.json").decode())
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise CheckpointError(f"{self.path} has no tokenizer: {error}") from error


@dataclass(frozen=True, slots=True)
class Array:
    """A tensor that is still in its file; see `llmplug.LazyTensor`."""

    path: Path
    name: str
    shape: tuple[int, ...]
    format: str

    @property
    def num_bytes(self) -> int:
        """Bytes of its numbers."""
        return math.prod(self.shape) * (4 if self.format == "F32" else 2)

    def load(self) -> torch.Tensor:
        """Read it on the CPU, as stored."""
        import numpy as np
        import torch

        with zipfile.ZipFile(self.path) as file:
            return torch.from_numpy(np.load(io.BytesIO(file.read(self.name)), allow_pickle=False))

    def raw(self) -> torch.Tensor:
        """Read it as bytes: one row for each of dimension 0."""
        import torch

        return self.load().contiguous().view(torch.uint8).reshape(self.shape[0], -1)


def _read_header(path: Path, name: str, data: bytes) -> Array:
    stream = io.BytesIO(data)
    npy.read_magic(stream)
    shape, is_fortran, dtype = npy.read_array_header_1_0(stream)
    if is_fortran or dtype.str not in _FORMATS:
        raise ValueError(f"{name} holds {dtype.str}, not rows of {' or '.join(_FORMATS)}")
    array = Array(path, name, shape, _FORMATS[dtype.str])
    if len(data) - stream.tell() != array.num_bytes:
        raise ValueError(f"{name} is cut off")
    return array
