"""One SQLite file of entries (responses, conversations), their items and their events.

It is bounded: what was used longest ago goes first.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from llmplug.server.responses.store import UNFINISHED
from llmplug.server.sqlite_thread import SqliteThread

if TYPE_CHECKING:
    from pathlib import Path

    from llmplug.server.responses.input_items import Item
    from llmplug.server.schema.responses_reply import Fields

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


class SqliteFile(SqliteThread):
    """A file of entries; see `SqliteThread`.

    Args:
        path: of the file.
        max_bytes: of everything that is kept, about.
        ttl_s: seconds after which an entry goes that nobody used.
    """

    def __init__(self, path: Path, *, max_bytes: int, ttl_s: float) -> None:
        super().__init__(
            path,
            _SCHEMA,
            name="responses",
            apology="What is stored of responses cannot be reached; the server's log says why. A "
            "request with 'store' false needs none of it.",
        )
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s

    @property
    def oldest_use(self) -> float:
        """The time of use before which an entry is gone."""
        return time.time() - self._ttl_s

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
