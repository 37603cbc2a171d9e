"""A SQLite file and the one thread that works on it, so that no event loop waits for a disk.

Several processes may share the file.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from llmplug.server.errors import HttpError

IN_MEMORY = Path(":memory:")
BUSY_TIMEOUT_S = 10.0  # another process may hold the file while it writes

Result = TypeVar("Result")


class SqliteThread:
    """A file that only its user may read; it is opened when first used.

    Args:
        path: of the file; `IN_MEMORY`: in this process alone, until it ends.
        schema: statements that make what is not there yet.
        name: of the thread.
        apology: what a client is told when the file cannot be reached.
    """

    def __init__(self, path: Path, schema: str, *, name: str, apology: str) -> None:
        self._path = path
        self._schema = schema
        self._apology = apology
        self._connection: sqlite3.Connection | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def run(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Do `work` in the thread, as one transaction.

        Raises:
            HttpError: the file cannot be opened, read or written.
        """

        def transact() -> Result:
            if self._connection is None:
                self._connection = _open(self._path, self._schema)
            with self._connection as db:  # commits, or rolls back on an exception
                db.execute("BEGIN IMMEDIATE")
                return work(db)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, transact)
        except (OSError, sqlite3.Error) as error:
            raise HttpError(500, self._apology, code="store_failed", kind="server_error") from error

    async def close(self) -> None:
        """Close the file; a later call opens it again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, connection.close)


def _open(path: Path, schema: str) -> sqlite3.Connection:
    if path != IN_MEMORY:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # It holds what people wrote: made before SQLite would make it readable for all.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    db = sqlite3.connect(
        path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    try:
        db.execute("PRAGMA journal_mode = WAL")
        # A crash of the machine may cost the last answers.
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA secure_delete = ON")  # what was deleted is not to be found in the file
        db.executescript(f"BEGIN IMMEDIATE;{schema}COMMIT;")
    except sqlite3.Error:
        db.close()
        raise
    return db


def state_folder() -> Path:
    """Return where programs keep their state: $XDG_STATE_HOME/llmplug."""
    root = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(root) / "llmplug"
