"""One SQLite file of entries (responses, conversations), their items and their events.

It is bounded: what was used longest ago goes first. One thread of this process does all of its
work, so that the event loop never waits for a disk; several processes may share the file.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from llmplug.server.errors import HttpError
from llmplug.server.responses.store import UNFINISHED

if TYPE_CHECKING:
    from llmplug.server.responses.input_items import Item
    from llmplug.server.schema.responses_reply import Fields

IN_MEMORY = Path(":memory:")
BUSY_TIMEOUT_S = 10.0  # another process may hold the file while it writes
# `alive_at`: when the writer of an unfinished entry was last heard of; times are unix time, s.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    owner TEXT NOT NULL,
    status TEXT NOT NULL,
    used_at REAL NOT NULL,
    alive_at REAL NOT NULL,
    num_bytes INTEGER NOT NULL,
    body BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS entries_by_use ON entries (used_at);
CREATE TABLE IF NOT EXISTS items (
    entry_id TEXT NOT NULL,
    is_output INTEGER NOT NULL,
    position INTEGER NOT NULL,
    owner TEXT NOT NULL,
    id TEXT NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (entry_id, is_output, position)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS items_by_id ON items (owner, id);
CREATE TABLE IF NOT EXISTS events (
    entry_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    kind TEXT NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (entry_id, number)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS size (num_bytes INTEGER NOT NULL);
INSERT INTO size SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM size);
CREATE TRIGGER IF NOT EXISTS entries_in AFTER INSERT ON entries BEGIN
    UPDATE size SET num_bytes = num_bytes + new.num_bytes;
END;
CREATE TRIGGER IF NOT EXISTS entries_change AFTER UPDATE OF num_bytes ON entries BEGIN
    UPDATE size SET num_bytes = num_bytes + new.num_bytes - old.num_bytes;
END;
CREATE TRIGGER IF NOT EXISTS entries_out AFTER DELETE ON entries BEGIN
    UPDATE size SET num_bytes = num_bytes - old.num_bytes;
    DELETE FROM items WHERE entry_id = old.id;
    DELETE FROM events WHERE entry_id = old.id;
END;
"""

Result = TypeVar("Result")


class SqliteFile:
    """A file that only its user may read; it is opened when first used.

    Args:
        path: of the file; `IN_MEMORY`: in this process alone, until it ends.
        max_bytes: of everything that is kept, about.
        ttl_s: seconds after which an entry goes that nobody used.
    """

    def __init__(self, path: Path, *, max_bytes: int, ttl_s: float) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._connection: sqlite3.Connection | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="responses")

    @property
    def oldest_use(self) -> float:
        """The time of use before which an entry is gone."""
        return time.time() - self._ttl_s

    async def run(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Do `work` in the thread, as one transaction.

        Raises:
            HttpError: the file cannot be opened, read or written.
        """

        def transact() -> Result:
            if self._connection is None:
                self._connection = _open(self._path)
            with self._connection as db:  # commits, or rolls back on an exception
                db.execute("BEGIN IMMEDIATE")
                return work(db)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, transact)
        except (OSError, sqlite3.Error) as error:
            raise HttpError(
                500,
                "What is stored of responses cannot be reached; the server's log says why. A "
                "request with 'store' false needs none of it.",
                code="store_failed",
                kind="server_error",
            ) from error

    async def close(self) -> None:
        """Close the file; a later call opens it again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, connection.close)

    def make_room(self, db: sqlite3.Connection, newest_id: str) -> None:
        """Delete what expired, and what was used longest ago until the rest is small enough.

        The newest entry stays, and so do those that are still written.
        """
        db.execute("DELETE FROM entries WHERE used_at < ?", (self.oldest_use,))
        while read_size(db) > self._max_bytes:
            deleted = db.execute(
                "DELETE FROM entries WHERE id = (SELECT id FROM entries "
                "WHERE status NOT IN (?, ?) AND id != ? ORDER BY used_at LIMIT 1)",
                (*UNFINISHED, newest_id),
            )
            if deleted.rowcount == 0:
                break


def _open(path: Path) -> sqlite3.Connection:
    if path != IN_MEMORY:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # It holds what people wrote: made before SQLite would make it readable for all.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    db = sqlite3.connect(
        path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")  # a crash of the machine may cost the last answers
    db.execute("PRAGMA secure_delete = ON")  # what was deleted is not to be found in the file
    db.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}COMMIT;")
    return db


def read_size(db: sqlite3.Connection) -> int:
    """Bytes of all that is kept."""
    return int(db.execute("SELECT num_bytes FROM size").fetchone()[0])


def insert_entry(
    db: sqlite3.Connection, kind: str, owner: str, body: Fields, num_item_bytes: int
) -> None:
    """Write a new entry; its items are written already."""
    encoded = msgspec.json.encode(body)
    now = time.time()
    db.execute(
        "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            body["id"],
            kind,
            owner,
            body.get("status", ""),
            now,
            now,
            num_item_bytes + len(encoded),
            encoded,
        ),
    )


def insert_items(
    db: sqlite3.Connection,
    entry_id: str,
    owner: str,
    items: Sequence[Item],
    *,
    is_output: bool,
    first: int = 0,
) -> int:
    """Write items from position `first` on; return their bytes."""
    rows = [
        (entry_id, is_output, first + i, owner, item["id"], msgspec.json.encode(item))
        for i, item in enumerate(items)
    ]
    db.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?, ?)", rows)
    return sum(len(row[-1]) for row in rows)


def read_items(db: sqlite3.Connection, entry_id: str, *, is_output: bool) -> list[Item]:
    """The items of an entry, in order."""
    rows = db.execute(
        "SELECT body FROM items WHERE entry_id = ? AND is_output = ? ORDER BY position",
        (entry_id, is_output),
    )
    return [msgspec.json.decode(body) for (body,) in rows]


def delete_entry(db: sqlite3.Connection, kind: str, owner: str, entry_id: str) -> bool:
    """Forget an entry; False: there was none."""
    words = "DELETE FROM entries WHERE kind = ? AND owner = ? AND id = ?"
    return db.execute(words, (kind, owner, entry_id)).rowcount > 0
