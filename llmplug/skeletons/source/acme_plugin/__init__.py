"""A place that model files come from: archives on the file system, `acme_plugin:/path/model.tar`.

`find` says whether it is here already, without a network; `fetch` brings it, and leaves nothing
behind that `find` would take for whole when it is cut off.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from llmplug import SourceError, SourceSpec, hookimpl

if TYPE_CHECKING:
    from llmplug import Progress


def _place_of(rest: str, cache_dir: Path) -> Path:
    digest = hashlib.sha256(rest.encode()).hexdigest()[:16]
    return cache_dir / "acme_plugin" / digest


def _find(rest: str, cache_dir: Path) -> Path | None:
    place = _place_of(rest, cache_dir)
    return place if place.is_dir() else None


def _fetch(rest: str, cache_dir: Path, progress: Progress) -> Path:
    place = _place_of(rest, cache_dir)
    place.parent.mkdir(parents=True, exist_ok=True)
    unpacked = Path(tempfile.mkdtemp(dir=place.parent))
    try:
        _unpack(rest, unpacked, progress)
        os.replace(unpacked, place)  # all of it, or nothing
    except BaseException:
        shutil.rmtree(unpacked, ignore_errors=True)
        raise
    return place


def _unpack(rest: str, folder: Path, progress: Progress) -> None:
    try:
        with tarfile.open(rest) as archive:
            members = archive.getmembers()
            for number, member in enumerate(members):
                progress("unpack", number, len(members))
                archive.extract(member, folder, filter="data")
            progress("unpack", len(members), len(members))
    except (OSError, tarfile.TarError) as error:
        raise SourceError(f"acme_plugin:{rest} cannot be unpacked: {error}") from error


@hookimpl
def llmplug_sources() -> list[SourceSpec]:
    """Offer the scheme `acme_plugin`."""
    return [
        SourceSpec(
            scheme="acme_plugin",
            syntax="acme_plugin:/path/to.tar",
            find=_find,
            fetch=_fetch,
        )
    ]
