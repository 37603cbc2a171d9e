"""Where files from wheels are kept, and when one counts as complete.

    <cache>/pypi/<dist>-<version>/<file>
    <cache>/pypi/<dist>-<version>/.verified/<file>.json     {"sha256": ..., "size": ...}

The record is written last, after the file was compared with the checksum in its wheel. A file
without a record, or of another size, does not count.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from llmplug_pypi.address import Address


def folder_of(address: Address, cache_dir: Path) -> Path:
    """Return the folder of one version of a distribution."""
    return cache_dir / "pypi" / f"{address.dist}-{address.version}"


def find(address: Address, cache_dir: Path) -> Path | None:
    """Return the file if it was verified and still has its size; reads a few bytes only."""
    file = folder_of(address, cache_dir) / address.file
    try:
        record = json.loads(_record_of(address, cache_dir).read_bytes())
        is_whole = file.is_file() and file.stat().st_size == record["size"] and record["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # no record, or not one of ours: the file is fetched again
    return file if is_whole else None


def keep(verified: Path, address: Address, cache_dir: Path, *, sha256: str) -> Path:
    """Move a verified file into its place, then write its record; both steps are atomic."""
    file = folder_of(address, cache_dir) / address.file
    record = _record_of(address, cache_dir)
    for folder in (file.parent, record.parent):
        folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"sha256": sha256, "size": verified.stat().st_size})
    new_record = verified.with_name(verified.name + ".json")
    new_record.write_text(text + "\n")
    os.replace(verified, file)
    os.replace(new_record, record)
    return file


def _record_of(address: Address, cache_dir: Path) -> Path:
    return folder_of(address, cache_dir) / ".verified" / f"{address.file}.json"
