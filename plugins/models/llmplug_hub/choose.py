"""Which files of a repository a model needs."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmplug import SourceError

if TYPE_CHECKING:
    from llmplug_hub.address import Address

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_SMALL = re.compile(r"[^/]+\.(json|jinja)|tokenizer\.model|additional_chat_templates/[^/]+\.jinja")
_PICKLE = re.compile(r"[^/]+\.(bin|pt|pth)")
_NAMES_SHOWN = 5


def choose_files(address: Address, names: Sequence[str]) -> list[str]:
    """Pick the files to fetch: the one that is named, or a model's safetensors and small files.

    Raises:
        SourceError: the repository has no such file, or no weights that are served.
    """
    if address.file is not None:
        if address.file not in names:
            near = difflib.get_close_matches(address.file, names, _NAMES_SHOWN) or names
            raise SourceError(f"{address}: there is no such file; there is {_listed(near)}")
        return [address.file]
    weights = _choose_weights(names)
    if not weights:
        raise SourceError(f"{address}: {_explain_no_weights(names)}")
    return sorted(name for name in names if _SMALL.fullmatch(name)) + weights


def _choose_weights(names: Sequence[str]) -> list[str]:
    """Prefer the one file, then numbered shards: some repositories hold the weights twice."""
    if _SINGLE in names:
        return [_SINGLE]
    shards = sorted(name for name in names if _SHARD.fullmatch(name))
    if _INDEX in names and shards:
        return shards
    return sorted(name for name in names if re.fullmatch(r"[^/]+\.safetensors", name))


def _explain_no_weights(names: Sequence[str]) -> str:
    gguf = [name for name in names if name.endswith(".gguf")]
    if gguf:
        return f"it holds GGUF files; name one: {_listed([f'/{name}' for name in gguf])}"
    if any(_PICKLE.fullmatch(name) for name in names):
        return "it holds pickled weights only, which are never loaded; convert them to safetensors"
    return f"it holds no weights; there is {_listed(names)}"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMES_SHOWN]) or "nothing"
    more = len(names) - _NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
