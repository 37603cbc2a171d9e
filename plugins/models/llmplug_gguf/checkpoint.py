"""A GGUF file as a checkpoint, under the names of the Hugging Face checkpoint."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any

from llmplug import CheckpointError, TokenizerFiles
from llmplug_gguf.architectures import DERIVED_LAYER_TENSORS, Architecture
from llmplug_gguf.config import find_architecture, make_config
from llmplug_gguf.header import read_header
from llmplug_gguf.rope import FACTORS
from llmplug_gguf.tensors import GgufTensor
from llmplug_gguf.tokenizer import read_tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from llmplug import LazyTensor

_NAME = re.compile(r"(?:blk\.(\d+)\.)?(.+)\.(weight|bias)")
_ROTATED = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}


class GgufCheckpoint:
    """An opened GGUF file; implements `llmplug.Checkpoint`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._header = read_header(path)
        try:
            architecture = find_architecture(self._header)
            self._config = make_config(self._header, architecture)
            self._tensors = self._name_tensors(architecture)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    @property
    def config(self) -> Mapping[str, Any]:
        """The fields of config.json."""
        return self._config

    @property
    def generation_config(self) -> Mapping[str, Any] | None:
        """None: GGUF has no place for it."""
        return None

    @property
    def tensors(self) -> Mapping[str, LazyTensor]:
        """Tensors by the Hugging Face name; those without one keep GGUF's."""
        return self._tensors

    @functools.cached_property
    def tokenizer(self) -> TokenizerFiles:
        """Built from the fields on first use."""
        try:
            return read_tokenizer(self._header)
        except CheckpointError as error:
            raise CheckpointError(f"{self._path}: {error}") from error

    @property
    def json_files(self) -> Mapping[str, Any]:
        """None: all is in one file."""
        return {}

    @property
    def module_tensors(self) -> Mapping[str, Mapping[str, LazyTensor]]:
        """None: all is in one file."""
        return {}

    @property
    def files(self) -> Sequence[Path]:
        """The one file."""
        return (self._path,)

    def _name_tensors(self, architecture: Architecture) -> dict[str, LazyTensor]:
        tensors: dict[str, LazyTensor] = {}
        for gguf_name, info in self._header.tensors.items():
            match = _NAME.fullmatch(gguf_name)
            layer, part, suffix = match.groups() if match else (None, gguf_name, "")
            if gguf_name == FACTORS or (layer and part in DERIVED_LAYER_TENSORS):
                continue  # read into the config, or follows from it
            table = architecture.tensors if layer is None else architecture.layer_tensors
            name = gguf_name  # what no table knows keeps its name, and the model refuses it
            if part in table:
                prefix = "" if layer is None else f"model.layers.{layer}."
                name = f"{prefix}{table[part]}.{suffix}"
            heads = 0
            if layer and part in _ROTATED and architecture.has_permuted_heads:
                heads = self._config[_ROTATED[part]]
                if info.shape[0] % (2 * heads):
                    raise CheckpointError(
                        f"tensor {gguf_name} has {info.shape[0]} rows, "
                        f"which {heads} heads do not share"
                    )
            tensors[name] = GgufTensor(info, self._header.data, heads)
        return tensors
