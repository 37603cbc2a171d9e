"""What `hf:org/name[/file][@revision]` says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from llmplug import SourceError

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_REPO = re.compile(rf"({_NAME}/{_NAME})(?:/(.+))?")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]*")
_DEFAULT_REVISION = "main"


@dataclass(frozen=True, slots=True)
class Address:
    """A model repository, or one file of it, at a revision.

    Attributes:
        repo: `org/name`.
        file: path within the repository; None: all that a model needs.
        revision: a branch, a tag or a commit.
    """

    repo: str
    file: str | None
    revision: str

    def __str__(self) -> str:
        file = "" if self.file is None else f"/{self.file}"
        return f"hf:{self.repo}{file}@{self.revision}"


def parse_address(rest: str) -> Address:
    """Read what follows `hf:`; SourceError says what is wrong with it."""
    place, at, revision = rest.partition("@")
    match = _REPO.fullmatch(place)
    if match is None or "--" in match[1] or (at and not _is_revision(revision)):
        raise SourceError(
            f"hf:{rest}: write hf:org/name, hf:org/name@revision, or hf:org/name/file.gguf"
        )
    file = match[2]
    if file is not None:
        path = PurePosixPath(file)
        if path.is_absolute() or ".." in path.parts or "\\" in file or str(path) != file:
            raise SourceError(f"hf:{rest}: {file!r} is no path of a file within the repository")
    return Address(match[1], file, revision or _DEFAULT_REVISION)


def _is_revision(text: str) -> bool:
    return bool(_REVISION.fullmatch(text)) and ".." not in text
