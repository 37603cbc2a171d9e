"""What `pypi:dist==version/file` says; a path that ends with a slash is a folder."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from llmplug import SourceError

# Names as packaging.python.org has them. The first character is never a dash, so that pip cannot
# read one as an option.
_DIST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_VERSION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.!+_-]*[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Address:
    """One file or folder in one version of one distribution.

    Attributes:
        dist: name, normalised: lower case, runs of `-_.` are one dash.
        version: exact.
        file: path inside the wheel, with forward slashes, without `..`; of a folder, a slash at
            its end.
    """

    dist: str
    version: str
    file: str

    @property
    def is_folder(self) -> bool:
        """Whether all files below a path are meant."""
        return self.file.endswith("/")

    def at(self, file: str) -> Address:
        """Another file of the same version."""
        return replace(self, file=file)

    @property
    def requirement(self) -> str:
        """The pinned requirement that pip understands."""
        return f"{self.dist}=={self.version}"


def parse_address(rest: str) -> Address:
    """Read what follows `pypi:`; SourceError says what is wrong with it."""
    requirement, slash, file = rest.partition("/")
    dist, equals, version = requirement.partition("==")
    if not equals or not _DIST.fullmatch(dist) or not _VERSION.fullmatch(version):
        raise SourceError(
            f"pypi:{rest}: write pypi:dist==version/file, with one exact version, "
            "so that everybody gets the same bytes"
        )
    if not slash or not is_safe(file.removesuffix("/")):
        raise SourceError(
            f"pypi:{rest}: after {requirement}/ write the path of one file inside the wheel, or of "
            "a folder, with a slash at its end"
        )
    return Address(dist=re.sub(r"[-_.]+", "-", dist).lower(), version=version, file=file)


def is_safe(file: str) -> bool:
    """Whether a path leads to one place below where it starts, and is written in one way only."""
    path = PurePosixPath(file)
    leads_away = path.is_absolute() or ".." in path.parts or "\\" in file or "\0" in file
    return bool(file) and not leads_away and str(path) == file
