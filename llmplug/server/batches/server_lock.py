"""Which servers live, of those that share a folder: each holds a lock until its process ends."""

from __future__ import annotations

import fcntl
import os
import uuid
from contextlib import suppress
from pathlib import Path


class ServerLock:
    """The lock of this server; it goes with its process, however that ends.

    Args:
        folder: of the locks of all servers.
    """

    def __init__(self, folder: Path) -> None:
        self.name = uuid.uuid4().hex  # of this server
        self._folder = folder
        self._descriptor: int | None = None

    def hold(self) -> None:
        """Show that this server lives; may be called twice."""
        if self._descriptor is not None:
            return
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._descriptor = os.open(self._folder / self.name, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def release(self) -> None:
        """Be gone; may be called twice."""
        if self._descriptor is None:
            return
        (self._folder / self.name).unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = None

    def is_alive(self, server: str) -> bool:
        """Whether another server lives; what is left of one that does not is cleared away."""
        path = self._folder / server
        try:
            descriptor = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        with suppress(FileNotFoundError):
            path.unlink()
        return False
