"""The database of files and batches.

An answered line is one row, written in one transaction, and the files of a batch are made of its
rows. So a server that is killed at any moment loses no answer, and no line is answered twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmplug.server.sqlite_thread import SqliteThread

if TYPE_CHECKING:
    from pathlib import Path

FILE_NAME = "batches.sqlite"
# Times are unix time, s; `server` is the one that runs a batch; an owner is the digest of an API
# key, "" where there are none.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    purpose TEXT NOT NULL,
    filename TEXT NOT NULL,
    num_bytes INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS batches (
    id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    status TEXT NOT NULL,
    server TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    input_file_id TEXT NOT NULL,
    output_lifetime_s INTEGER,
    body BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS lines (
    batch_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    is_failed INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (batch_id, number)
) WITHOUT ROWID;
"""


def open_tables(folder: Path) -> SqliteThread:
    """Return the database in a folder; it is opened when it is first used."""
    return SqliteThread(
        folder / FILE_NAME,
        _SCHEMA,
        name="batches",
        apology="What is stored of files and batches cannot be reached; the server's log says why.",
    )
