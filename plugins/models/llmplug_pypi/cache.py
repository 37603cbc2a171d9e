"""Where files from wheels are kept, and when one counts as complete.

    <cache>/pypi/<dist>-<version>/<file>
    <cache>/pypi/<dist>-<version>/.verified/<file>.json     {"sha256": ..., "size": ...}
    <cache>/pypi/<dist>-<version>/.verified/<folder>/.json  the paths of all files in it

A record is written last, after the file was compared with the checksum in its wheel. A file
without a record, or of another size, does not count; nor does a folder without all of its files.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from llmplug_pypi.address import Address


def folder_of(address: Address, cache_dir: Path) -> Path:
    """Return the folder of one version of a distribution."""
    return cache_dir / "pypi" / f"{address.dist}-{address.version}"


def find(address: Address, cache_dir: Path) -> Path | None:
    """Return the file or folder if it was verified and has its size; reads a few bytes only."""
    if address.is_folder:
        return _find_folder(address, cache_dir)
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


def keep_folder(address: Address, cache_dir: Path, names: Sequence[str]) -> Path:
    """Note which files a folder has, once each of them is kept."""
    record = _record_of(address, cache_dir)
    new_record = record.with_name(f"{record.name}.new")
    new_record.write_text(json.dumps(names) + "\n")
    os.replace(new_record, record)
    return folder_of(address, cache_dir) / address.file


def _find_folder(address: Address, cache_dir: Path) -> Path | None:
    try:
        names = json.loads(_record_of(address, cache_dir).read_bytes())
        is_whole = bool(names) and all(find(address.at(name), cache_dir) for name in names)
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return folder_of(address, cache_dir) / address.file if is_whole else None


def _record_of(address: Address, cache_dir: Path) -> Path:
    return folder_of(address, cache_dir) / ".verified" / f"{address.file}.json"
