"""What lies complete and verified in the cache.

    <cache>/hub/models--org--name/...       as huggingface_hub keeps it
    <cache>/hub/verified/<address>.json     {"folder": ..., "files": {name: bytes}}

A branch stays at the commit that was fetched until it is fetched again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from llmplug_hub.address import Address


def hub_folder(cache_dir: Path) -> Path:
    """Return the folder that huggingface_hub keeps its cache in."""
    return cache_dir / "hub"


def find(address: Address, cache_dir: Path) -> Path | None:
    """Return the folder or file if it was verified and its files still have their sizes."""
    try:
        record = json.loads(_record_of(address, cache_dir).read_bytes())
        folder: Path = hub_folder(cache_dir) / record["folder"]
        sizes: dict[str, int] = record["files"]
        is_whole = bool(sizes) and all(
            (folder / name).stat().st_size == size for name, size in sizes.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # no record, or not one of ours: it is fetched again
    if not is_whole:
        return None
    return folder if address.file is None else folder / address.file


def keep(address: Address, cache_dir: Path, folder: Path, sizes: Mapping[str, int]) -> None:
    """Record that these files of a snapshot folder are verified."""
    path = _record_of(address, cache_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    relative = folder.relative_to(hub_folder(cache_dir)).as_posix()
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_text(json.dumps({"folder": relative, "files": dict(sizes)}) + "\n")
    os.replace(partial, path)


def _record_of(address: Address, cache_dir: Path) -> Path:
    return hub_folder(cache_dir) / "verified" / f"{quote(str(address), safe='')}.json"
