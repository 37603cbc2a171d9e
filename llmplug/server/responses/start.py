"""Open what the Responses API needs, and close it when the server stops."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmplug.server.framing import use_framing
from llmplug.server.responses.background import BackgroundRuns
from llmplug.server.responses.framing import RESPONSES
from llmplug.server.responses.sqlite_conversations import SqliteConversations
from llmplug.server.responses.sqlite_file import SqliteFile
from llmplug.server.responses.sqlite_responses import SqliteResponses
from llmplug.server.sqlite_thread import IN_MEMORY, state_folder

if TYPE_CHECKING:
    from sanic import Sanic

    from llmplug.config import ResponsesConfig


def open_responses(app: Sanic[Any, Any], settings: ResponsesConfig) -> None:
    """Give `app` its store and its background; the file is opened when it is first needed."""
    file = SqliteFile(
        _choose_path(settings.path), max_bytes=settings.max_bytes, ttl_s=settings.ttl_s
    )
    app.ctx.responses = SqliteResponses(file)
    app.ctx.conversations = SqliteConversations(file)
    app.ctx.background = BackgroundRuns(app.ctx.responses, app.ctx.conversations, app.ctx.lifecycle)
    use_framing(app, "/v1/responses", RESPONSES)

    async def stop(*_: object) -> None:
        await app.ctx.background.stop()
        await file.close()

    app.after_server_stop(stop)


def _choose_path(path: str) -> Path:
    if path == "memory":
        return IN_MEMORY
    if path != "auto":
        return Path(path).expanduser()
    return state_folder() / "responses.sqlite"
