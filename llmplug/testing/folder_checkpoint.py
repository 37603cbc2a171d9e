"""A model folder read into memory, so that checks of models need no loader plugin."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmplug.specs import TokenizerFiles

if TYPE_CHECKING:
    from llmplug.ops import LoadedTensor


@dataclass(frozen=True)
class FolderCheckpoint:
    """The files of a folder, whole."""

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, LoadedTensor]
    generation_config: Mapping[str, Any] | None = None
    files: tuple[Path, ...] = ()
    json_files: Mapping[str, Any] = field(default_factory=dict)
    module_tensors: Mapping[str, Mapping[str, LoadedTensor]] = field(default_factory=dict)

    @property
    def tokenizer(self) -> TokenizerFiles:
        """What tokenizer.json holds."""
        return TokenizerFiles(json=(self.path / "tokenizer.json").read_text())


def open_folder(folder: Path) -> FolderCheckpoint:
    """Read config.json and model.safetensors of a folder."""
    from safetensors.torch import load_file

    from llmplug.ops import LoadedTensor

    tensors = load_file(folder / "model.safetensors")
    return FolderCheckpoint(
        path=folder,
        config=json.loads((folder / "config.json").read_text()),
        tensors={name: LoadedTensor(tensor) for name, tensor in tensors.items()},
    )
