"""Files: what they hold lies on disk, the rest in the database."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmplug.errors import InvalidRequest
from llmplug.server.batches.objects import UNFINISHED, StoredFile

if TYPE_CHECKING:
    from llmplug.server.sqlite_thread import SqliteThread


class FileStore:
    """Files of all owners; what belongs to another owner is not there.

    Args:
        folder: where what they hold lies.
        max_bytes: of all of them; past that nothing more is uploaded.
        ttl_s: seconds after which a file goes.
    """

    def __init__(self, db: SqliteThread, folder: Path, *, max_bytes: int, ttl_s: float) -> None:
        self._db = db
        self._folder = folder
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s

    async def add(self, file: StoredFile, data: bytes) -> None:
        """Keep an uploaded file.

        Raises:
            InvalidRequest: there is no room for it.
        """
        await self.check_room(len(data))
        await asyncio.to_thread(write_file, self.path_of(file.id), lambda out: out(data))
        await self.register(file)

    async def check_room(self, num_bytes: int) -> None:
        """Forget what has expired, and see whether so much more may be kept.

        Raises:
            InvalidRequest: it may not.
        """
        expired, held = await self._db.run(_drop_expired)
        await asyncio.to_thread(self._unlink, expired)
        if held + num_bytes > self._max_bytes:
            raise InvalidRequest(
                f"There is no room for {num_bytes} bytes: files may hold {self._max_bytes} "
                f"together, and hold {held}. Delete some.",
                param="file",
                code="storage_full",
            )

    async def register(self, file: StoredFile) -> None:
        """Note a file that lies there, in place of one of the same id."""
        words = "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?)"
        row = dataclasses.astuple(file)
        await self._db.run(lambda db: db.execute(words, row) and None)

    async def find(self, owner: str, file_id: str) -> StoredFile | None:
        """Return a file; None: there is none, or it has expired."""
        words = "SELECT * FROM files WHERE owner = ? AND expires_at > ? AND id = ?"
        wanted = (owner, time.time(), file_id)
        row = await self._db.run(lambda db: db.execute(words, wanted).fetchone())
        return None if row is None else StoredFile(*row)

    async def list_owned(self, owner: str, purpose: str | None) -> list[StoredFile]:
        """Return the files of a purpose, or all of them, the oldest first."""
        words = (
            "SELECT * FROM files WHERE owner = ? AND expires_at > ? "
            "AND purpose = coalesce(?, purpose) ORDER BY created_at, rowid"
        )
        wanted = (owner, time.time(), purpose)
        rows = await self._db.run(lambda db: db.execute(words, wanted).fetchall())
        return [StoredFile(*row) for row in rows]

    async def read(self, file: StoredFile) -> bytes:
        """Return what a file holds."""
        return await asyncio.to_thread(self.path_of(file.id).read_bytes)

    async def delete(self, owner: str, file_id: str) -> bool:
        """Forget a file; False: there was none, or a batch still reads it."""
        words = (
            "DELETE FROM files WHERE owner = ? AND id = ? AND id NOT IN "
            "(SELECT input_file_id FROM batches WHERE status IN (?, ?, ?, ?))"
        )
        wanted = (owner, file_id, *UNFINISHED)
        deleted = await self._db.run(lambda db: db.execute(words, wanted).rowcount)
        if deleted:
            await asyncio.to_thread(self._unlink, [file_id])
        return deleted > 0

    def choose_expiry(self, lifetime_s: int | None) -> int:
        """Return when a new file expires: none lives longer than the config says."""
        lifetime = self._ttl_s if lifetime_s is None else min(lifetime_s, self._ttl_s)
        return int(time.time() + lifetime)

    def path_of(self, file_id: str) -> Path:
        """Where what a file holds lies: ids are ours, and name no folders."""
        return self._folder / file_id

    def _unlink(self, file_ids: list[str]) -> None:
        for file_id in file_ids:
            self.path_of(file_id).unlink(missing_ok=True)


def _drop_expired(db: sqlite3.Connection) -> tuple[list[str], int]:
    """Forget expired files; return their ids, and the bytes of the others."""
    words = "DELETE FROM files WHERE expires_at <= ? RETURNING id"
    expired = [file_id for (file_id,) in db.execute(words, (time.time(),)).fetchall()]
    (held,) = db.execute("SELECT coalesce(sum(num_bytes), 0) FROM files").fetchone()
    return expired, held


def write_file(path: Path, write: Callable[[Callable[[bytes], Any]], None]) -> int:
    """Write a file that only its user may read, whole or not at all; return its bytes.

    Args:
        write: is given what takes a part of it.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    descriptor = os.open(partial, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        write(file.write)
        num_bytes = file.tell()
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    return num_bytes
