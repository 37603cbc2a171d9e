"""Folders as the Hugging Face hub has them: config.json, safetensors, tokenizer.json.

`weights.py` finds the weight files and maps them, `tokenizer.py` gathers what a tokenizer is made
of, `quantisation.py` reads how weights are quantised and `quantised_weights.py` gathers those,
`json_files.py` reads the small files, `checkpoint.py` puts it together. Pickles are never loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmplug import LoaderSpec, hookimpl

if TYPE_CHECKING:
    from pathlib import Path

    from llmplug import Checkpoint

# Folders with nothing but pickles are claimed too: `open` says how to convert them.
_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth"}


def _claims(path: Path) -> bool:
    try:
        if path.is_file():
            return path.suffix == ".safetensors"
        return path.is_dir() and (
            (path / "config.json").is_file()
            or any(file.suffix in _SUFFIXES for file in path.iterdir())
        )
    except OSError:
        return False  # whoever opens it says why it cannot be read


def _open(path: Path) -> Checkpoint:
    from llmplug_safetensors.checkpoint import SafetensorsCheckpoint

    return SafetensorsCheckpoint(path)


@hookimpl
def llmplug_model_loaders() -> list[LoaderSpec]:
    """Offer the format safetensors."""
    return [LoaderSpec(name="safetensors", claims=_claims, open=_open)]
