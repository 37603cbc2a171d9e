"""A model folder as a checkpoint."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from llmplug import CheckpointError, TokenizerFiles
from llmplug_safetensors import tokenizer
from llmplug_safetensors.json_files import read_json, read_object
from llmplug_safetensors.quantisation import AWQ_FILE, FIELD, GPTQ_FILE, read_quantisation
from llmplug_safetensors.quantised_weights import gather_weights
from llmplug_safetensors.weights import INDEX_FILE, SINGLE_FILE, find_weight_files, open_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from llmplug import LazyTensor

_CONFIG_FILE = "config.json"
_GENERATION_FILE = "generation_config.json"
_LARGE_FILES = frozenset({tokenizer.TOKENIZER_FILE, INDEX_FILE, "vocab.json", "data_config.json"})
_SMALL_FILES = (
    _CONFIG_FILE,
    _GENERATION_FILE,
    GPTQ_FILE,
    AWQ_FILE,
    INDEX_FILE,
    tokenizer.TOKENIZER_FILE,
    tokenizer.CONFIG_FILE,
    tokenizer.SPECIAL_FILE,
    tokenizer.TEMPLATE_FILE,
)


class SafetensorsCheckpoint:
    """An opened model folder; implements `llmplug.Checkpoint`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folder = path.parent if path.is_file() else path
        self._weight_files, file_of = find_weight_files(path)
        self._config = _read_config(self._folder / _CONFIG_FILE)
        self._generation_config = read_object(self._folder / _GENERATION_FILE)
        self._quantisation = read_quantisation(self._config, self._folder)
        # It is seen to here: architectures, which would refuse it, get plain names of weights.
        self._config.pop(FIELD, None)
        self._stored = open_tensors(self._weight_files, file_of)

    @property
    def path(self) -> Path:
        """The folder, or the one weight file in it that was named."""
        return self._path

    @property
    def config(self) -> Mapping[str, Any]:
        """The fields of config.json, without `quantization_config`, which is seen to here.

        `dtype` is there also where the file has the older `torch_dtype`.
        """
        return self._config

    @property
    def generation_config(self) -> Mapping[str, Any] | None:
        """The fields of generation_config.json, None where there is none."""
        return self._generation_config

    @functools.cached_property
    def tensors(self) -> Mapping[str, LazyTensor]:
        """Tensors by name, of all weight files; a quantised weight is one tensor."""
        if self._quantisation is None:
            return self._stored
        return gather_weights(self._stored, self._quantisation)

    @functools.cached_property
    def tokenizer(self) -> TokenizerFiles:
        """Read on first use."""
        return tokenizer.read_tokenizer(self._folder)

    @functools.cached_property
    def json_files(self) -> Mapping[str, Any]:
        """The JSON files of the folder and of the folders in it, but for those of large data."""
        found = {}
        for file in sorted([*self._folder.glob("*.json"), *self._folder.glob("*/*.json")]):
            if file.name not in _LARGE_FILES:
                found[file.relative_to(self._folder).as_posix()] = read_json(file)
        return found

    @functools.cached_property
    def module_tensors(self) -> Mapping[str, Mapping[str, LazyTensor]]:
        """What the weight files in the folder's folders hold, by folder."""
        files = sorted(self._folder.glob(f"*/{SINGLE_FILE}"))
        return {file.parent.name: open_tensors([file], {}) for file in files}

    @property
    def files(self) -> Sequence[Path]:
        """Every file that is read."""
        small = [self._folder / name for name in _SMALL_FILES]
        templates = sorted((self._folder / tokenizer.TEMPLATE_FOLDER).glob("*.jinja"))
        return [*(file for file in small if file.is_file()), *templates, *self._weight_files]


def _read_config(path: Path) -> dict[str, Any]:
    config = read_object(path)
    if config is None:
        raise CheckpointError(f"{path}: missing; it says what the weights are")
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise CheckpointError(f"{path}: architectures must name the model's class, not {names!r}")
    if config.get("dtype") is None and "torch_dtype" in config:
        config["dtype"] = config["torch_dtype"]
    return config
