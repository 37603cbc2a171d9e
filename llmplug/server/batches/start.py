"""Open what files and batches need, and close it when the server stops."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmplug.errors import LlmplugError
from llmplug.server.batches.batch_store import BatchStore
from llmplug.server.batches.file_store import FileStore
from llmplug.server.batches.runs import BatchRuns
from llmplug.server.batches.server_lock import ServerLock
from llmplug.server.batches.tables import FILE_NAME, open_tables
from llmplug.server.routes import batches, files
from llmplug.server.sqlite_thread import state_folder

if TYPE_CHECKING:
    from sanic import Sanic

    from llmplug.config import BatchesConfig

log = logging.getLogger("llmplug.server")

MAX_SHARE = 4  # lines take no more than a quarter of the places for requests that wait


def open_batches(app: Sanic[Any, Any], settings: BatchesConfig) -> None:
    """Give `app` its files and batches, unless the config wants none."""
    if settings.path == "none":
        return
    folder = _choose_folder(settings.path)
    db = open_tables(folder)
    context = app.ctx
    context.files = FileStore(
        db, folder / "files", max_bytes=settings.max_bytes, ttl_s=settings.ttl_s
    )
    context.batches = BatchStore(db, ttl_s=settings.ttl_s)
    context.batch_runs = BatchRuns(
        app,
        context.batches,
        context.files,
        ServerLock(folder / "servers"),
        at_once=min(settings.at_once, max(1, context.admission.max_waiting // MAX_SHARE)),
    )
    files.add_routes(app, settings.max_file_bytes)
    batches.add_routes(app)

    async def start(*_: object) -> None:
        if not (folder / FILE_NAME).exists():
            return
        try:
            await context.batch_runs.resume()
        except LlmplugError:  # what else is served needs none of it
            log.exception("batches that were left unfinished cannot be gone on with")

    async def stop(*_: object) -> None:
        await context.batch_runs.stop()
        await db.close()

    app.after_server_start(start)
    app.before_server_stop(stop)


def _choose_folder(path: str) -> Path:
    return state_folder() / "batches" if path == "auto" else Path(path).expanduser()
