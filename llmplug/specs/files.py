"""Where model files come from, and what formats they have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch


class Progress(Protocol):
    """Where long work reports to: a bar on a terminal, /ready, or nowhere."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Say that `done` of `total` bytes (or items) of `stage` are finished; total 0: unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSpec:
    """Where model files come from: `scheme:rest` in a config becomes a local path.

    Attributes:
        scheme: the word before the colon, such as `hf`.
        syntax: how a source is written, for messages: `hf:org/name[@revision]`.
        find: rest -> the local path if it is already here, complete and verified, else None.
            Touches no network.
        fetch: (rest, cache folder, progress) -> local path, downloaded and verified. Raises
            SourceError. A download that is cut off leaves nothing that `find` accepts.
    """

    scheme: str
    syntax: str
    find: Callable[[str, Path], Path | None]
    fetch: Callable[[str, Path, Progress], Path]


class LazyTensor(Protocol):
    """A tensor that is still in its file.

    Where weights are divided among ranks, a `SliceableTensor` is read in part; of others the whole
    is read and cut.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """In torch order: a linear weight is (out, in)."""

    @property
    def format(self) -> str:
        """How its numbers are stored: `F32`, `BF16`, `F16`, `Q4_1`, ..."""

    @property
    def num_bytes(self) -> int:
        """Bytes in the file."""

    def load(self) -> torch.Tensor:
        """Read it on the CPU: float formats as stored, block formats dequantised to float32."""

    def raw(self) -> torch.Tensor:
        """The bytes as stored, uint8, (rows, bytes per row): for kernels that read the blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerFiles:
    """What a tokenizer is made of, whatever file it came from.

    Attributes:
        json: a serialised `tokenizers.Tokenizer` (the text of tokenizer.json).
        bos_token: text of the token, or None where the model has none.
        eos_token: the same.
        add_bos: whether plain text is prefixed with the bos token. None: as `json` says.
        chat_template: Jinja source, or None.
        named_templates: further templates of the checkpoint, by name.
        special_tokens: what templates may refer to: {"pad_token": ..., "unk_token": ...}.
    """

    json: str
    bos_token: str | None = None
    eos_token: str | None = None
    add_bos: bool | None = None
    chat_template: str | None = None
    named_templates: Mapping[str, str] = field(default_factory=dict)
    special_tokens: Mapping[str, str] = field(default_factory=dict)


class Checkpoint(Protocol):
    """An opened model folder or file: headers are read, weights are not.

    Names of tensors and config keys are those of the Hugging Face checkpoint of the same model,
    whatever the file calls them, so that one model plugin serves every format.
    """

    @property
    def path(self) -> Path:
        """The file or folder."""

    @property
    def config(self) -> Mapping[str, Any]:
        """The fields of config.json; `architectures` is always there."""

    @property
    def generation_config(self) -> Mapping[str, Any] | None:
        """The fields of generation_config.json, None where there is none."""

    @property
    def tensors(self) -> Mapping[str, LazyTensor]:
        """Tensors by name."""

    @property
    def tokenizer(self) -> TokenizerFiles:
        """Raises CheckpointError if the checkpoint carries none that can be read."""

    @property
    def files(self) -> Sequence[Path]:
        """Every file that is read, for the report."""

    @property
    def json_files(self) -> Mapping[str, Any]:
        """Further JSON files of a model's folder, by their path in it: `modules.json`, ..."""

    @property
    def module_tensors(self) -> Mapping[str, Mapping[str, LazyTensor]]:
        """Tensors of the folders in a model's folder, by their names there: `2_Dense`, ..."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderSpec:
    """A checkpoint format.

    Attributes:
        name: of the format: `safetensors`, `gguf`.
        claims: whether a path looks like this format; opens no more than a header, raises nothing.
        open: reads headers. Raises CheckpointError for damaged or truncated files. Runs in the
            server process too, which does without torch: import it when a tensor is read.
    """

    name: str
    claims: Callable[[Path], bool]
    open: Callable[[Path], Checkpoint]
