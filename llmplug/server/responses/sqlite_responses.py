"""The store of responses in a SQLite file."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import msgspec

from llmplug.server.responses.sqlite_file import (
    delete_entry,
    insert_entry,
    insert_items,
    read_items,
)
from llmplug.server.responses.store import UNFINISHED, StoredResponse
from llmplug.server.responses.writer import ResponseEvent

if TYPE_CHECKING:
    from llmplug.server.responses.input_items import Item
    from llmplug.server.responses.sqlite_file import SqliteFile
    from llmplug.server.responses.store import MakeLast
    from llmplug.server.schema.responses_reply import Fields

_KIND = "response"


class SqliteResponses:
    """Keeps responses; what it does and means is said in `ResponseStore`."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file

    async def save(self, stored: StoredResponse, events: Sequence[ResponseEvent] = ()) -> None:
        """Keep a new response."""
        await self._file.run(lambda db: self._save(db, stored, events))

    async def update(self, stored: StoredResponse, events: Sequence[ResponseEvent] = ()) -> bool:
        """Replace a response that is not finished; False: it is, or was deleted."""
        return await self._file.run(lambda db: _update(db, stored, events))

    async def end(self, stored: StoredResponse, make_last: MakeLast) -> bool:
        """Replace a response that is not finished, in place of whoever writes it."""
        return await self._file.run(lambda db: _end(db, stored, make_last))

    async def load(self, owner: str, response_id: str) -> StoredResponse | None:
        """Return a response; None: there is none."""
        return await self._file.run(lambda db: self._use(db, owner, response_id))

    async def load_chain(self, owner: str, response_id: str) -> list[StoredResponse]:
        """Return a response and those it goes on from, the oldest first."""
        return await self._file.run(lambda db: self._load_chain(db, owner, response_id))

    async def find_items(self, owner: str, item_ids: Collection[str]) -> dict[str, Item]:
        """Return those of these items that are kept, by id."""
        return await self._file.run(lambda db: _find_items(db, owner, item_ids))

    async def delete(self, owner: str, response_id: str) -> bool:
        """Forget a response; False: there was none."""
        return await self._file.run(lambda db: delete_entry(db, _KIND, owner, response_id))

    async def append_events(self, response_id: str, events: Sequence[ResponseEvent]) -> bool:
        """Keep events of a response, and that it is alive; False: it is finished, or deleted."""
        return await self._file.run(lambda db: _append_events(db, response_id, events))

    async def read_events(self, response_id: str, after: int) -> list[ResponseEvent]:
        """Return the events of a response with a number above `after`."""
        words = (
            "SELECT number, kind, body FROM events WHERE entry_id = ? AND number > ? "
            "ORDER BY number"
        )
        rows = await self._file.run(lambda db: db.execute(words, (response_id, after)).fetchall())
        return [ResponseEvent(*row) for row in rows]

    def _save(
        self, db: sqlite3.Connection, stored: StoredResponse, events: Sequence[ResponseEvent]
    ) -> None:
        num_bytes = _insert_items(db, stored)
        insert_entry(db, _KIND, stored.owner, _strip(stored), num_bytes)
        _insert_events(db, stored.id, events)
        self._file.make_room(db, stored.id)

    def _load(self, db: sqlite3.Connection, owner: str, response_id: str) -> StoredResponse | None:
        row = db.execute(
            "SELECT body, alive_at FROM entries WHERE kind = ? AND owner = ? AND id = ? "
            "AND used_at >= ?",
            (_KIND, owner, response_id, self._file.oldest_use),
        ).fetchone()
        if row is None:
            return None
        body, alive_at = row
        output = read_items(db, response_id, is_output=True)
        return StoredResponse(
            owner=owner,
            body={**msgspec.json.decode(body), "output": output},
            input=read_items(db, response_id, is_output=False),
            alive_at=alive_at,
        )

    def _use(self, db: sqlite3.Connection, owner: str, response_id: str) -> StoredResponse | None:
        stored = self._load(db, owner, response_id)
        if stored is not None:
            _mark_used(db, [stored])
        return stored

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
        _mark_used(db, chain)
        return chain[::-1]


def _mark_used(db: sqlite3.Connection, chain: Sequence[StoredResponse]) -> None:
    used = [(time.time(), each.id) for each in chain]
    db.executemany("UPDATE entries SET used_at = ? WHERE id = ?", used)


def _strip(stored: StoredResponse) -> Fields:
    """The body without its items, which are rows of their own."""
    return {**stored.body, "output": []}


def _insert_items(db: sqlite3.Connection, stored: StoredResponse) -> int:
    own = insert_items(db, stored.id, stored.owner, stored.input, is_output=False)
    return own + insert_items(db, stored.id, stored.owner, stored.body["output"], is_output=True)


def _update(
    db: sqlite3.Connection, stored: StoredResponse, events: Sequence[ResponseEvent]
) -> bool:
    if not _append_events(db, stored.id, events):
        return False
    num_event_bytes = db.execute(
        "SELECT COALESCE(SUM(LENGTH(body)), 0) FROM events WHERE entry_id = ?", (stored.id,)
    ).fetchone()[0]
    db.execute("DELETE FROM items WHERE entry_id = ?", (stored.id,))
    num_item_bytes = _insert_items(db, stored)
    body = msgspec.json.encode(_strip(stored))
    num_bytes = num_item_bytes + num_event_bytes + len(body)
    db.execute(
        "UPDATE entries SET status = ?, used_at = ?, num_bytes = ?, body = ? WHERE id = ?",
        (stored.body["status"], time.time(), num_bytes, body, stored.id),
    )
    return True


def _end(db: sqlite3.Connection, stored: StoredResponse, make_last: MakeLast) -> bool:
    words = "SELECT COALESCE(MAX(number), -1) + 1 FROM events WHERE entry_id = ?"
    (number,) = db.execute(words, (stored.id,)).fetchone()
    return _update(db, stored, [make_last(number)])


def _append_events(
    db: sqlite3.Connection, response_id: str, events: Sequence[ResponseEvent]
) -> bool:
    touched = db.execute(
        "UPDATE entries SET alive_at = ? WHERE id = ? AND status IN (?, ?)",
        (time.time(), response_id, *UNFINISHED),
    )
    if touched.rowcount == 0:
        return False
    _insert_events(db, response_id, events)
    return True


def _insert_events(
    db: sqlite3.Connection, response_id: str, events: Sequence[ResponseEvent]
) -> None:
    rows = [(response_id, each.number, each.kind, each.json) for each in events]
    db.executemany("INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?)", rows)
    num_bytes = sum(len(each.json) for each in events)
    words = "UPDATE entries SET num_bytes = num_bytes + ? WHERE id = ?"
    db.execute(words, (num_bytes, response_id))


def _find_items(db: sqlite3.Connection, owner: str, item_ids: Collection[str]) -> dict[str, Item]:
    words = "SELECT body FROM items WHERE owner = ? AND id = ? LIMIT 1"
    rows = {each: db.execute(words, (owner, each)).fetchone() for each in item_ids}
    return {each: msgspec.json.decode(row[0]) for each, row in rows.items() if row is not None}
