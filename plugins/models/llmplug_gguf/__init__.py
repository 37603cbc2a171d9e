"""GGUF files: one file with config, tokenizer and weights, mostly in quantised blocks.

`header.py` reads the head of a file, `architectures.py` holds the tables that turn GGUF's names
into those of config.json and of the Hugging Face tensors, `config.py` and `rope.py` apply them,
`tensors.py` reads the numbers, `checkpoint.py` puts it together. `tokenizer.py` builds the
tokenizer: `byte_level.py` and `sentencepiece.py` are its two kinds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmplug import LoaderSpec, hookimpl

if TYPE_CHECKING:
    from pathlib import Path

    from llmplug import Checkpoint

_MAGIC = b"GGUF"


def _claims(path: Path) -> bool:
    if not path.is_file():
        return False
    if path.suffix.lower() == ".gguf":
        return True
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False  # whoever opens it says why it cannot be read


def _open(path: Path) -> Checkpoint:
    from llmplug_gguf.checkpoint import GgufCheckpoint

    return GgufCheckpoint(path)


@hookimpl
def llmplug_model_loaders() -> list[LoaderSpec]:
    """Offer the format GGUF."""
    return [LoaderSpec(name="gguf", claims=_claims, open=_open)]
