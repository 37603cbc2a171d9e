"""The store of conversations, in the same file as that of responses."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from llmplug.server.responses.input_items import renew_id
from llmplug.server.responses.sqlite_file import (
    delete_entry,
    insert_entry,
    insert_items,
    read_items,
)
from llmplug.server.responses.store import StoredConversation

if TYPE_CHECKING:
    from llmplug.server.responses.input_items import Item
    from llmplug.server.responses.sqlite_file import SqliteFile
    from llmplug.server.schema.responses_reply import Fields

_KIND = "conversation"


class SqliteConversations:
    """Keeps conversations; what it does and means is said in `ConversationStore`."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file

    async def create(self, stored: StoredConversation) -> None:
        """Keep a new conversation."""
        await self._file.run(lambda db: self._create(db, stored))

    async def load(self, owner: str, conversation_id: str) -> StoredConversation | None:
        """Return a conversation, which counts as used now; None: there is none."""
        return await self._file.run(lambda db: self._load(db, owner, conversation_id))

    async def set_metadata(
        self, owner: str, conversation_id: str, metadata: dict[str, str]
    ) -> Fields | None:
        """Replace what is said about a conversation, and return it; None: there is none."""
        return await self._file.run(
            lambda db: self._set_metadata(db, owner, conversation_id, metadata)
        )

    async def delete(self, owner: str, conversation_id: str) -> bool:
        """Forget a conversation; False: there was none."""
        return await self._file.run(lambda db: delete_entry(db, _KIND, owner, conversation_id))

    async def append_items(
        self, owner: str, conversation_id: str, items: Sequence[Item]
    ) -> list[Item] | None:
        """Add items at the end; return them as they are kept; None: there is no conversation."""
        return await self._file.run(lambda db: self._append(db, owner, conversation_id, items))

    async def delete_item(self, owner: str, conversation_id: str, item_id: str) -> bool:
        """Forget an item; False: there was none."""
        return await self._file.run(lambda db: _delete_item(db, owner, conversation_id, item_id))

    def _create(self, db: sqlite3.Connection, stored: StoredConversation) -> None:
        num_bytes = insert_items(db, stored.id, stored.owner, stored.items, is_output=False)
        insert_entry(db, _KIND, stored.owner, stored.body, num_bytes)
        self._file.make_room(db, stored.id)

    def _load(
        self, db: sqlite3.Connection, owner: str, conversation_id: str
    ) -> StoredConversation | None:
        if not self._touch(db, owner, conversation_id):
            return None
        words = "SELECT body FROM entries WHERE id = ?"
        (body,) = db.execute(words, (conversation_id,)).fetchone()
        return StoredConversation(
            owner=owner,
            body=msgspec.json.decode(body),
            items=read_items(db, conversation_id, is_output=False),
        )

    def _set_metadata(
        self, db: sqlite3.Connection, owner: str, conversation_id: str, metadata: dict[str, str]
    ) -> Fields | None:
        stored = self._load(db, owner, conversation_id)
        if stored is None:
            return None
        body = {**stored.body, "metadata": metadata}
        encoded = msgspec.json.encode(body)
        db.execute(
            "UPDATE entries SET num_bytes = num_bytes + ? - LENGTH(body), body = ? WHERE id = ?",
            (len(encoded), encoded, conversation_id),
        )
        return body

    def _append(
        self, db: sqlite3.Connection, owner: str, conversation_id: str, items: Sequence[Item]
    ) -> list[Item] | None:
        if not self._touch(db, owner, conversation_id):
            return None
        words = "SELECT id, position FROM items WHERE entry_id = ? ORDER BY position"
        rows = db.execute(words, (conversation_id,)).fetchall()
        taken = {row[0] for row in rows}
        kept: list[Item] = []
        for item in items:
            kept.append(renew_id(item) if item["id"] in taken else item)
            taken.add(item["id"])
        first = rows[-1][1] + 1 if rows else 0
        num_bytes = insert_items(db, conversation_id, owner, kept, is_output=False, first=first)
        words = "UPDATE entries SET num_bytes = num_bytes + ? WHERE id = ?"
        db.execute(words, (num_bytes, conversation_id))
        self._file.make_room(db, conversation_id)
        return kept

    def _touch(self, db: sqlite3.Connection, owner: str, conversation_id: str) -> bool:
        """Say that a conversation is used; False: there is none."""
        touched = db.execute(
            "UPDATE entries SET used_at = ? WHERE kind = ? AND owner = ? AND id = ? "
            "AND used_at >= ?",
            (time.time(), _KIND, owner, conversation_id, self._file.oldest_use),
        )
        return touched.rowcount > 0


def _delete_item(db: sqlite3.Connection, owner: str, conversation_id: str, item_id: str) -> bool:
    of_item = (conversation_id, owner, item_id)
    row = db.execute(
        "SELECT LENGTH(body) FROM items WHERE entry_id = ? AND owner = ? AND id = ?", of_item
    ).fetchone()
    if row is None:
        return False
    db.execute("DELETE FROM items WHERE entry_id = ? AND owner = ? AND id = ?", of_item)
    words = "UPDATE entries SET num_bytes = num_bytes - ? WHERE id = ?"
    db.execute(words, (row[0], conversation_id))
    return True
