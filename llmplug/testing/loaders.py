"""Check a loader: what it claims, what it reads, and what it says of damaged files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmplug.errors import CheckpointError, KernelInputError
from llmplug.tensor_slices import SliceableTensor
from llmplug.testing.closeness import expect_close
from llmplug.testing.expect import expect

if TYPE_CHECKING:
    import torch

    from llmplug.specs import Checkpoint, LazyTensor, LoaderSpec

# Shares of a file that are left, and bytes more or less than that.
_CUTS = (0.0, 0.3, 0.6, 1.0)
_OPEN_WITHOUT_TORCH = """
import importlib, operator, pathlib, sys
module, name, path = sys.argv[1:]
operator.attrgetter(name)(importlib.import_module(module))(pathlib.Path(path))
sys.exit("torch" in sys.modules)
"""


def check_loader(
    spec: LoaderSpec,
    path: Path,
    *,
    config: Mapping[str, Any] | None = None,
    tensors: Mapping[str, torch.Tensor] | None = None,
    tolerances: tuple[float, float] = (0.0, 0.0),
    has_tokenizer: bool = True,
) -> None:
    """Open a checkpoint, and copies of it that are damaged.

    Of the path it claims it reads config, tensors and tokenizer as the contract has them, without
    torch until a tensor is loaded; the parts of a `SliceableTensor` are those of the whole; what is
    no checkpoint is not claimed, and nothing is raised; a file that is cut off anywhere is a
    CheckpointError and nothing else; files stay as they are.

    Args:
        spec: from `llmplug_model_loaders()`.
        path: of a small checkpoint, a file or a folder.
        config: fields that its config must have.
        tensors: all its tensors by name, as they must come out.
        tolerances: (rtol, atol) of these, for formats that round.
        has_tokenizer: whether the checkpoint carries one.

    Raises:
        AssertionError: says what differs, or which damage is read as if nothing were.
    """
    before = _read_all(path)
    _check_claims(spec, path)
    checkpoint = spec.open(path)
    _check_config(checkpoint, path, config or {})
    _check_tensors(checkpoint, tensors, tolerances)
    if has_tokenizer:
        _check_tokenizer(checkpoint)
    _check_without_torch(spec, path)
    _check_damage(spec, path, checkpoint, has_tokenizer)
    expect(_read_all(path) == before, f"reading {path} changes its files: map them read-only")


def _read_all(path: Path) -> dict[Path, bytes]:
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    return {each: each.read_bytes() for each in files}


def _check_claims(spec: LoaderSpec, path: Path) -> None:
    expect(spec.claims(path) is True, f"`claims` of {spec.name!r} is not True for {path}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "empty").mkdir()
        (folder / "notes.txt").write_text("some notes")
        (folder / "zeros.bin").write_bytes(bytes(64))
        for other in (folder / "absent", *folder.iterdir()):
            expect(
                spec.claims(other) is False,
                f"`claims` of {spec.name!r} is not False for {other.name}: another loader may know "
                "it, so look at the suffix, the first bytes or the names in the folder",
            )


def _check_config(checkpoint: Checkpoint, path: Path, config: Mapping[str, Any]) -> None:
    expect(checkpoint.path == path, f"`path` is {checkpoint.path}, not {path}")
    names = checkpoint.config.get("architectures")
    expect(
        isinstance(names, list) and bool(names) and all(isinstance(each, str) for each in names),
        f"`config['architectures']` is {names!r}: a list of names, as Hugging Face writes them",
    )
    for key, value in config.items():
        found = checkpoint.config.get(key)
        expect(found == value, f"`config[{key!r}]` is {found!r}, not {value!r}")
    absent = [each for each in checkpoint.files if not Path(each).is_file()]
    expect(not absent, f"`files` names {absent}, which are not there")
    expect(bool(checkpoint.files), "`files` is empty: it names every file that is read")


def _check_tensors(
    checkpoint: Checkpoint,
    tensors: Mapping[str, torch.Tensor] | None,
    tolerances: tuple[float, float],
) -> None:
    if tensors is not None:
        names = set(checkpoint.tensors)
        missing, unknown = sorted(set(tensors) - names), sorted(names - set(tensors))
        expect(
            not missing and not unknown,
            f"tensors {missing} are missing, and {unknown} are made up: names are those of the "
            "Hugging Face checkpoint of the model",
        )
    for name, lazy in checkpoint.tensors.items():
        loaded = _load(name, lazy)
        if tensors is not None:
            expected = tensors[name].to(loaded.dtype)
            expect_close(loaded, expected, tolerances, f"the tensor {name} is not what was written")
        if isinstance(lazy, SliceableTensor):
            for dimension in range(len(lazy.shape)):
                _check_halves(name, lazy, loaded, dimension)


def _load(name: str, lazy: LazyTensor) -> torch.Tensor:
    """Load a tensor, and hold it against what was said of it before."""
    import torch

    loaded = lazy.load()
    expect(
        tuple(loaded.shape) == tuple(lazy.shape),
        f"{name} says that its shape is {lazy.shape}, and loads {tuple(loaded.shape)}",
    )
    expect(bool(lazy.format), f"{name} does not say its `format`")
    expect(loaded.device.type == "cpu", f"{name} is loaded on {loaded.device}, not on the CPU")
    raw = lazy.raw()
    expect(
        raw.dtype == torch.uint8 and raw.numel() == lazy.num_bytes,
        f"`raw` of {name} has {raw.numel()} elements of {raw.dtype}, and `num_bytes` is "
        f"{lazy.num_bytes}: uint8, as many as the file holds",
    )
    is_matrix = len(lazy.shape) == 2
    expect(
        raw.dim() == 2 and (not is_matrix or raw.shape[0] == lazy.shape[0]),
        f"`raw` of {name} has the shape {tuple(raw.shape)}, not (rows, bytes per row)",
    )
    return loaded


def _check_halves(name: str, lazy: SliceableTensor, loaded: torch.Tensor, dimension: int) -> None:
    """Read a tensor in two parts, unless it is too small or says that it cannot be cut there."""
    size = loaded.shape[dimension]
    bounds = ((0, size // 2), (size // 2, size)) if size > 1 else ()
    try:
        halves = [lazy.slice(dimension, start, end) for start, end in bounds]
    except (CheckpointError, KernelInputError):
        return
    for half, (start, end) in zip(halves, bounds, strict=True):
        what = f"{name} from {start} to {end} of dimension {dimension}"
        expected = loaded.narrow(dimension, start, end - start)
        expect_close(half.load(), expected, (0, 0), f"{what} differs from the whole tensor's part")
        raw = half.raw()
        expect(
            tuple(half.shape) == tuple(expected.shape) and raw.numel() == half.num_bytes,
            f"{what} says the shape {half.shape} and {half.num_bytes} bytes, and has "
            f"{tuple(expected.shape)} and {raw.numel()}",
        )


def _check_tokenizer(checkpoint: Checkpoint) -> None:
    from tokenizers import Tokenizer

    files = checkpoint.tokenizer
    try:
        vocabulary = Tokenizer.from_str(files.json).get_vocab()
    except Exception as error:
        raise AssertionError(f"`tokenizer.json` is no serialised tokenizer: {error}") from error
    for name in ("bos_token", "eos_token"):
        token = getattr(files, name)
        expect(token is None or token in vocabulary, f"`{name}` is {token!r}, which is no token")


def _check_without_torch(spec: LoaderSpec, path: Path) -> None:
    """The server's process opens checkpoints too, and has no torch."""
    module, name = spec.open.__module__, getattr(spec.open, "__qualname__", "<")
    if module == "__main__" or "<" in name:
        return  # nothing that another process could find
    command = [sys.executable, "-c", _OPEN_WITHOUT_TORCH, module, name, str(path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603
    expect(
        done.returncode != 1 or bool(done.stderr),
        f"`open` of {spec.name!r} imports torch: import it when a tensor is read",
    )


def _check_damage(
    spec: LoaderSpec, path: Path, checkpoint: Checkpoint, has_tokenizer: bool
) -> None:
    """Cut each file off at several places; what holds weights must be missed."""
    files = [Path(each) for each in checkpoint.files]
    largest = max(files, key=lambda each: each.stat().st_size)
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / path.name
        shutil.copytree(path, copy) if path.is_dir() else shutil.copy(path, copy)
        for file in files:
            damaged = copy / file.relative_to(path) if path.is_dir() else copy
            whole = damaged.read_bytes()
            for share in _CUTS:
                size = max(0, int(len(whole) * share) - 1)
                damaged.write_bytes(whole[:size])
                what = f"{file.name}, of which {size} bytes are left,"
                is_read = _try(spec, copy, what, has_tokenizer)
                expect(
                    not is_read or file != largest,
                    f"{file.name} is opened though {size} of {len(whole)} bytes are left: compare "
                    "the size with what the header says, and raise CheckpointError",
                )
            damaged.write_bytes(whole)


def _try(spec: LoaderSpec, path: Path, what: str, has_tokenizer: bool) -> bool:
    """Return whether a checkpoint opens; it does, or is a CheckpointError."""
    try:
        checkpoint = spec.open(path)
        json.dumps(checkpoint.config, default=str)
        _ = checkpoint.tokenizer if has_tokenizer else None
    except CheckpointError:
        return False
    except Exception as error:
        raise AssertionError(
            f"{what} ends in {error!r}: a damaged file is a CheckpointError that names it"
        ) from error
    return True
