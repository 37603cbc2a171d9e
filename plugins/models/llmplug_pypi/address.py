"""What `pypi:dist==version/file` says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from llmplug import SourceError

# Names as packaging.python.org has them. The first character is never a dash, so that pip cannot
# read one as an option.
_DIST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_VERSION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.!+_-]*[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Address:
    """One file in one version of one distribution.

    Attributes:
        dist: name, normalised: lower case, runs of `-_.` are one dash.
        version: exact.
        file: path inside the wheel, with forward slashes, without `..`.
    """

    dist: str
    version: str
    file: str

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
    path = PurePosixPath(file)
    unsafe = path.is_absolute() or ".." in path.parts or "\\" in file or "\0" in file
    if not slash or not file or unsafe or str(path) != file:
        raise SourceError(
            f"pypi:{rest}: after {requirement}/ write the path of one file inside the wheel"
        )
    return Address(dist=re.sub(r"[-_.]+", "-", dist).lower(), version=version, file=file)
