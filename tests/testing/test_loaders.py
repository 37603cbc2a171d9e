"""The check of loaders finds what is planted, and passes what is right."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import make_checkpoint

from llmplug import Checkpoint, CheckpointError, LoaderSpec
from llmplug.testing import check_loader
from llmplug_safetensors import llmplug_model_loaders

(RIGHT,) = llmplug_model_loaders()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("llama", tmp_path_factory.mktemp("model"))


def open_without(*errors: type[Exception]) -> Any:
    """Open in the right way, but take these for no damage."""

    def open_it(path: Path) -> Any:
        try:
            return RIGHT.open(path)
        except errors:
            return FakeCheckpoint(path)

    return open_it


@dataclass
class FakeCheckpoint:
    """A checkpoint of which nothing is known."""

    path: Path
    tensors: Any = None
    tokenizer: Any = None

    @property
    def config(self) -> dict[str, Any]:
        return {"architectures": ["A"]}


class Changed:
    """A checkpoint that is right, with something changed."""

    def __init__(self, path: Path) -> None:
        self.inner: Checkpoint = RIGHT.open(path)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class ChangedTensor(Changed):
    def __init__(self, inner: Any) -> None:
        self.inner = inner


class Transposes(ChangedTensor):
    def load(self) -> torch.Tensor:
        return self.inner.load().T.contiguous()


class Rounds(ChangedTensor):
    def load(self) -> torch.Tensor:
        return self.inner.load().bfloat16().float()


class CountsElements(ChangedTensor):
    @property
    def num_bytes(self) -> int:
        return self.inner.load().numel()


class FlatBytes(ChangedTensor):
    def raw(self) -> torch.Tensor:
        return self.inner.raw().flatten()


class SlicesOneTooFar(ChangedTensor):
    def slice(self, dimension: int, start: int, end: int) -> Any:
        shift = int(start > 0)
        return self.inner.slice(dimension, start - shift, end - shift)


class CountsTheWhole(ChangedTensor):
    def slice(self, dimension: int, start: int, end: int) -> Any:
        part = self.inner.slice(dimension, start, end)
        return LoadedPart(part, self.inner.num_bytes)


class LoadedPart(ChangedTensor):
    def __init__(self, inner: Any, num_bytes: int) -> None:
        super().__init__(inner)
        self.num_bytes = num_bytes


def wrap_tensors(kind: type) -> type:
    class Wrapped(Changed):
        @property
        def tensors(self) -> dict[str, Any]:
            return {name: kind(tensor) for name, tensor in self.inner.tensors.items()}

    return Wrapped


class RenamesTensors(Changed):
    @property
    def tensors(self) -> dict[str, Any]:
        return {name.replace("model.", ""): t for name, t in self.inner.tensors.items()}


class NamesNoArchitecture(Changed):
    @property
    def config(self) -> dict[str, Any]:
        return {**self.inner.config, "architectures": "LlamaForCausalLM"}


class NamesNoFiles(Changed):
    files = ()


class HasAnotherEnd(Changed):
    @property
    def tokenizer(self) -> Any:
        return replace(self.inner.tokenizer, eos_token="<none>")


class HasNoTokenizer(Changed):
    @property
    def tokenizer(self) -> Any:
        return replace(self.inner.tokenizer, json="{}")


class WritesAFile(Changed):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        (path / "cache.json").write_text("{}")


def open_eagerly(path: Path) -> Any:
    """Reads all weights at once, and says of damage what the library says."""
    load_file(path / "model.safetensors")
    return RIGHT.open(path)


def open_and_guess(path: Path) -> Any:
    try:
        json.loads((path / "config.json").read_text())
    except ValueError as error:
        raise RuntimeError("no config") from error
    return RIGHT.open(path)


@pytest.mark.parametrize(
    ("open_it", "words"),
    [
        (wrap_tensors(Transposes), "says that its shape is .*, and loads"),
        (wrap_tensors(Rounds), "is not what was written"),
        (wrap_tensors(CountsElements), "`num_bytes` is .*: uint8, as many as the file holds"),
        (wrap_tensors(FlatBytes), r"not \(rows, bytes per row\)"),
        (wrap_tensors(SlicesOneTooFar), "from .* to .* of dimension 0 differs from the whole"),
        (wrap_tensors(CountsTheWhole), "from 0 to .* of dimension 0 says the shape .* bytes, and"),
        (RenamesTensors, "are missing, and .* are made up"),
        (NamesNoArchitecture, "a list of names, as Hugging Face writes them"),
        (NamesNoFiles, "`files` is empty"),
        (HasAnotherEnd, "`eos_token` is '<none>', which is no token"),
        (HasNoTokenizer, "is no serialised tokenizer"),
        (open_eagerly, "a damaged file is a CheckpointError that names it"),
        (open_and_guess, "config.json.* ends in RuntimeError"),
        (open_without(CheckpointError), "is opened though .* bytes are left"),
    ],
)
def test_a_planted_bug_is_found(folder: Path, open_it: Any, words: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    with pytest.raises(AssertionError, match=words):
        check_loader(replace(RIGHT, open=open_it), folder, tensors=tensors)


def test_a_loader_that_writes_is_found(tmp_path: Path) -> None:
    folder = make_checkpoint("llama", tmp_path / "model")
    with pytest.raises(AssertionError, match="changes its files"):
        check_loader(replace(RIGHT, open=WritesAFile), folder)


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        (lambda path: False, "is not True for"),
        (lambda path: True, "is not False for absent"),
        (lambda path: not path.exists() or RIGHT.claims(path), "is not False for absent"),
        (lambda path: path.suffix == ".bin" or RIGHT.claims(path), "is not False for zeros.bin"),
    ],
)
def test_what_is_claimed_is_tried(folder: Path, claims: Any, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_loader(replace(RIGHT, claims=claims), folder)


def test_a_config_that_differs_is_said(folder: Path) -> None:
    with pytest.raises(AssertionError, match=r"`config\['hidden_size'\]` is 48, not 49"):
        check_loader(RIGHT, folder, config={"hidden_size": 49})


def test_a_loader_that_imports_torch_is_found(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "eager_loader.py").write_text(
        "import torch\nimport llmplug_safetensors\n"
        "(SPEC,) = llmplug_safetensors.llmplug_model_loaders()\n"
        "def open_it(path):\n    return SPEC.open(path)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    import eager_loader

    spec = LoaderSpec(name="mine", claims=RIGHT.claims, open=eager_loader.open_it)
    with pytest.raises(AssertionError, match="`open` of 'mine' imports torch"):
        check_loader(spec, folder)


def test_a_right_loader_passes(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    check_loader(RIGHT, folder, tensors=tensors, config={"hidden_size": 48})
