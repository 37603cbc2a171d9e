"""Batches, and the answers to their lines until they are written into files."""

from __future__ import annotations

import sqlite3
import time
from typing import TYPE_CHECKING

import msgspec

from llmplug.server.batches.objects import UNFINISHED, StoredBatch

if TYPE_CHECKING:
    from llmplug.server.batches.objects import Fields
    from llmplug.server.sqlite_thread import SqliteThread

PAGE_LINES = 500  # read at once


class BatchStore:
    """Batches of all owners; what belongs to another owner is not there.

    Args:
        ttl_s: seconds after which a batch that is over is forgotten.
    """

    def __init__(self, db: SqliteThread, *, ttl_s: float) -> None:
        self._db = db
        self._ttl_s = ttl_s

    async def add(self, batch: StoredBatch) -> None:
        """Keep a new batch, and forget those that were over long ago."""
        body = batch.body
        row = (
            batch.id,
            batch.owner,
            body["status"],
            batch.server,
            body["created_at"],
            body["input_file_id"],
            batch.output_lifetime_s,
            msgspec.json.encode(body),
        )
        oldest = time.time() - self._ttl_s

        def work(db: sqlite3.Connection) -> None:
            db.execute(
                "DELETE FROM batches WHERE created_at < ? AND status NOT IN (?, ?, ?, ?)",
                (oldest, *UNFINISHED),
            )
            db.execute("INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)

        await self._db.run(work)

    async def find(self, owner: str, batch_id: str) -> StoredBatch | None:
        """Return a batch; None: there is none."""
        words = (
            "SELECT owner, server, output_lifetime_s, body FROM batches WHERE owner = ? AND id = ?"
        )
        row = await self._db.run(lambda db: db.execute(words, (owner, batch_id)).fetchone())
        return None if row is None else _to_batch(row)

    async def list_owned(self, owner: str) -> list[StoredBatch]:
        """Return all batches of an owner, the oldest first."""
        words = (
            "SELECT owner, server, output_lifetime_s, body FROM batches WHERE owner = ? "
            "ORDER BY created_at, rowid"
        )
        rows = await self._db.run(lambda db: db.execute(words, (owner,)).fetchall())
        return [_to_batch(row) for row in rows]

    async def list_unfinished(self) -> list[StoredBatch]:
        """Return the batches of all owners that somebody runs, or did."""
        words = (
            "SELECT owner, server, output_lifetime_s, body FROM batches "
            "WHERE status IN (?, ?, ?, ?) ORDER BY created_at, rowid"
        )
        rows = await self._db.run(lambda db: db.execute(words, UNFINISHED).fetchall())
        return [_to_batch(row) for row in rows]

    async def update(self, body: Fields) -> None:
        """Replace what is told of a batch."""
        await self._db.run(lambda db: _update(db, body))

    async def finish(self, body: Fields) -> None:
        """Say how a batch has ended; the answers that its files hold are forgotten with that."""

        def work(db: sqlite3.Connection) -> None:
            _update(db, body)
            db.execute("DELETE FROM lines WHERE batch_id = ?", (body["id"],))

        await self._db.run(work)

    async def adopt(self, batch: StoredBatch, server: str) -> bool:
        """Take a batch over from a server that is gone; False: another one was quicker."""
        words = "UPDATE batches SET server = ? WHERE id = ? AND server = ?"
        row = (server, batch.id, batch.server)
        return await self._db.run(lambda db: db.execute(words, row).rowcount) > 0

    # --- lines ----------------------------------------------------------------------------------
    async def add_line(self, body: Fields, number: int, answer: Fields, *, is_failed: bool) -> None:
        """Keep the answer to a line, and what is told of its batch now, or neither."""
        row = (body["id"], number, is_failed, msgspec.json.encode(answer))

        def work(db: sqlite3.Connection) -> None:
            db.execute("INSERT INTO lines VALUES (?, ?, ?, ?)", row)
            _update(db, body)

        await self._db.run(work)

    async def read_answered(self, batch_id: str) -> dict[int, bool]:
        """Return the numbers of the lines that are answered, and whether each failed."""
        words = "SELECT number, is_failed FROM lines WHERE batch_id = ?"
        rows = await self._db.run(lambda db: db.execute(words, (batch_id,)).fetchall())
        return {number: bool(is_failed) for number, is_failed in rows}

    async def read_page(
        self, batch_id: str, *, is_failed: bool, after: int
    ) -> list[tuple[int, bytes]]:
        """Return the next lines with a number above `after`, in order; none: there are no more."""
        words = (
            "SELECT number, body FROM lines WHERE batch_id = ? AND is_failed = ? AND number > ? "
            "ORDER BY number LIMIT ?"
        )
        wanted = (batch_id, is_failed, after, PAGE_LINES)
        return await self._db.run(lambda db: db.execute(words, wanted).fetchall())


def _update(db: sqlite3.Connection, body: Fields) -> None:
    row = (body["status"], msgspec.json.encode(body), body["id"])
    db.execute("UPDATE batches SET status = ?, body = ? WHERE id = ?", row)


def _to_batch(row: tuple[str, str, int | None, bytes]) -> StoredBatch:
    owner, server, lifetime_s, body = row
    return StoredBatch(
        owner=owner, server=server, output_lifetime_s=lifetime_s, body=msgspec.json.decode(body)
    )
