"""The store in one SQLite file: survives restarts, and several processes may share it.

One thread of this process does all of its work, so that the event loop never waits for a disk.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from llmplug.server.errors import HttpError
from llmplug.server.responses.store import UNFINISHED, StoredResponse
from llmplug.server.responses.writer import ResponseEvent

if TYPE_CHECKING:
    from llmplug.server.responses.input_items import Item

IN_MEMORY = Path(":memory:")
BUSY_TIMEOUT_S = 10.0  # another process may hold the file while it writes
_SCHEMA = """
CREATE TABLE IF NOT EXISTS responses (
    id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    previous_id TEXT,
    status TEXT NOT NULL,
    used_at REAL NOT NULL,
    alive_at REAL NOT NULL,
    num_bytes INTEGER NOT NULL,
    body BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS responses_by_use ON responses (used_at);
CREATE TABLE IF NOT EXISTS items (
    response_id TEXT NOT NULL,
    is_output INTEGER NOT NULL,
    position INTEGER NOT NULL,
    owner TEXT NOT NULL,
    id TEXT NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (response_id, is_output, position)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS items_by_id ON items (owner, id);
CREATE TABLE IF NOT EXISTS events (
    response_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    kind TEXT NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (response_id, number)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS size (num_bytes INTEGER NOT NULL);
INSERT INTO size SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM size);
CREATE TRIGGER IF NOT EXISTS responses_in AFTER INSERT ON responses BEGIN
    UPDATE size SET num_bytes = num_bytes + new.num_bytes;
END;
CREATE TRIGGER IF NOT EXISTS responses_change AFTER UPDATE OF num_bytes ON responses BEGIN
    UPDATE size SET num_bytes = num_bytes + new.num_bytes - old.num_bytes;
END;
CREATE TRIGGER IF NOT EXISTS responses_out AFTER DELETE ON responses BEGIN
    UPDATE size SET num_bytes = num_bytes - old.num_bytes;
    DELETE FROM items WHERE response_id = old.id;
    DELETE FROM events WHERE response_id = old.id;
END;
"""

Result = TypeVar("Result")
_encode = msgspec.json.encode
_decode = msgspec.json.decode


class SqliteStore:
    """Keeps responses in a file that only its user may read; it is opened when first used.

    Args:
        path: of the file; `IN_MEMORY`: in this process alone, until it ends.
        max_bytes: of everything that is kept, about.
        ttl_s: seconds after which a response goes that nobody used.
    """

    def __init__(self, path: Path, *, max_bytes: int, ttl_s: float) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._connection: sqlite3.Connection | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="responses")

    async def save(self, stored: StoredResponse, events: Sequence[ResponseEvent] = ()) -> None:
        """Keep a new response."""
        await self._run(lambda db: self._save(db, stored, events))

    async def update(self, stored: StoredResponse, events: Sequence[ResponseEvent] = ()) -> bool:
        """Replace a response that is not finished; False: it is, or was deleted."""
        return await self._run(lambda db: self._update(db, stored, events))

    async def load(self, owner: str, response_id: str) -> StoredResponse | None:
        """Return a response; None: there is none."""
        return await self._run(lambda db: self._load(db, owner, response_id))

    async def load_chain(self, owner: str, response_id: str) -> list[StoredResponse]:
        """Return a response and those it goes on from, the oldest first."""
        return await self._run(lambda db: self._load_chain(db, owner, response_id))

    async def find_items(self, owner: str, item_ids: Collection[str]) -> dict[str, Item]:
        """Return those of these items that are kept, by id."""
        return await self._run(lambda db: _find_items(db, owner, item_ids))

    async def delete(self, owner: str, response_id: str) -> bool:
        """Forget a response; False: there was none."""
        words = "DELETE FROM responses WHERE owner = ? AND id = ?"
        return await self._run(lambda db: db.execute(words, (owner, response_id)).rowcount > 0)

    async def append_events(self, response_id: str, events: Sequence[ResponseEvent]) -> bool:
        """Keep events of a response, and that it is alive; False: it is finished, or deleted."""
        return await self._run(lambda db: _append_events(db, response_id, events))

    async def read_events(self, response_id: str, after: int) -> list[ResponseEvent]:
        """Return the events of a response with a number above `after`."""
        words = (
            "SELECT number, kind, body FROM events WHERE response_id = ? AND number > ? "
            "ORDER BY number"
        )
        rows = await self._run(lambda db: db.execute(words, (response_id, after)).fetchall())
        return [ResponseEvent(*row) for row in rows]

    async def close(self) -> None:
        """Close the file; a later call opens it again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, connection.close)

    async def _run(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
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

    def _save(
        self, db: sqlite3.Connection, stored: StoredResponse, events: Sequence[ResponseEvent]
    ) -> None:
        _insert(db, stored)
        _insert_events(db, stored.id, events)
        db.execute("DELETE FROM responses WHERE used_at < ?", (time.time() - self._ttl_s,))
        while _read_size(db) > self._max_bytes:
            deleted = db.execute(
                "DELETE FROM responses WHERE id = (SELECT id FROM responses "
                "WHERE status NOT IN (?, ?) AND id != ? ORDER BY used_at LIMIT 1)",
                (*UNFINISHED, stored.id),
            )
            if deleted.rowcount == 0:
                break

    def _update(
        self, db: sqlite3.Connection, stored: StoredResponse, events: Sequence[ResponseEvent]
    ) -> bool:
        if not _append_events(db, stored.id, events):
            return False
        num_event_bytes = db.execute(
            "SELECT COALESCE(SUM(LENGTH(body)), 0) FROM events WHERE response_id = ?", (stored.id,)
        ).fetchone()[0]
        db.execute("DELETE FROM items WHERE response_id = ?", (stored.id,))
        num_bytes = _insert_items(db, stored)
        body = _encode_body(stored)
        db.execute(
            "UPDATE responses SET status = ?, used_at = ?, num_bytes = ?, body = ? WHERE id = ?",
            (
                stored.body["status"],
                time.time(),
                num_bytes + num_event_bytes + len(body),
                body,
                stored.id,
            ),
        )
        return True

    def _load(self, db: sqlite3.Connection, owner: str, response_id: str) -> StoredResponse | None:
        row = db.execute(
            "SELECT body, alive_at FROM responses WHERE owner = ? AND id = ? AND used_at >= ?",
            (owner, response_id, time.time() - self._ttl_s),
        ).fetchone()
        if row is None:
            return None
        body, alive_at = row
        parts: tuple[list[Item], list[Item]] = ([], [])
        for is_output, item in db.execute(
            "SELECT is_output, body FROM items WHERE response_id = ? ORDER BY is_output, position",
            (response_id,),
        ):
            parts[is_output].append(_decode(item))
        return StoredResponse(
            owner=owner,
            body={**_decode(body), "output": parts[1]},
            input=parts[0],
            alive_at=alive_at,
        )

    def _load_chain(
        self, db: sqlite3.Connection, owner: str, response_id: str
    ) -> list[StoredResponse]:
        chain: list[StoredResponse] = []
        next_id: str | None = response_id
        while next_id is not None:
            stored = self._load(db, owner, next_id)
            if stored is None:
                break
            chain.append(stored)
            next_id = stored.previous_id
        used = [(time.time(), each.id) for each in chain]
        db.executemany("UPDATE responses SET used_at = ? WHERE id = ?", used)
        return chain[::-1]


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


def _read_size(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT num_bytes FROM size").fetchone()[0])


def _encode_body(stored: StoredResponse) -> bytes:
    return _encode({**stored.body, "output": []})


def _insert(db: sqlite3.Connection, stored: StoredResponse) -> None:
    body = _encode_body(stored)
    now = time.time()
    num_bytes = _insert_items(db, stored) + len(body)
    db.execute(
        "INSERT INTO responses VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            stored.id,
            stored.owner,
            stored.previous_id,
            stored.body["status"],
            now,
            now,
            num_bytes,
            body,
        ),
    )


def _insert_items(db: sqlite3.Connection, stored: StoredResponse) -> int:
    """Write the items of a response; return their bytes."""
    rows = [
        (stored.id, is_output, position, stored.owner, item["id"], _encode(item))
        for is_output, items in enumerate((stored.input, stored.body["output"]))
        for position, item in enumerate(items)
    ]
    db.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?, ?)", rows)
    return sum(len(row[-1]) for row in rows)


def _insert_events(
    db: sqlite3.Connection, response_id: str, events: Sequence[ResponseEvent]
) -> None:
    if not events:
        return
    rows = [(response_id, each.number, each.kind, each.json) for each in events]
    db.executemany("INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?)", rows)
    num_bytes = sum(len(each.json) for each in events)
    words = "UPDATE responses SET num_bytes = num_bytes + ? WHERE id = ?"
    db.execute(words, (num_bytes, response_id))


def _append_events(
    db: sqlite3.Connection, response_id: str, events: Sequence[ResponseEvent]
) -> bool:
    touched = db.execute(
        "UPDATE responses SET alive_at = ? WHERE id = ? AND status IN (?, ?)",
        (time.time(), response_id, *UNFINISHED),
    )
    if touched.rowcount == 0:
        return False
    _insert_events(db, response_id, events)
    return True


def _find_items(db: sqlite3.Connection, owner: str, item_ids: Collection[str]) -> dict[str, Item]:
    words = "SELECT body FROM items WHERE owner = ? AND id = ? LIMIT 1"
    rows = {each: db.execute(words, (owner, each)).fetchone() for each in item_ids}
    return {each: _decode(row[0]) for each, row in rows.items() if row is not None}
