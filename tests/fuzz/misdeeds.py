"""What the limits must catch."""

from __future__ import annotations

from pathlib import Path


def hoard(_: Path) -> None:
    """Take more memory than is allowed."""
    assert len(bytearray(2**30)) == 2**30


def crash(_: Path) -> None:
    """Fail with an error that is none of ours."""
    raise KeyError("not ours")


def behave(folder: Path) -> None:
    """Do what is allowed."""
    (folder / "file").write_bytes(bytes(2**20))
