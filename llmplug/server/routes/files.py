"""/v1/files: what batches read, and what they write."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field
from sanic.response import file_stream

from llmplug.errors import InvalidRequest
from llmplug.server.admission import admit
from llmplug.server.batches.objects import make_file
from llmplug.server.errors import HttpError, as_json
from llmplug.server.form import Part, read_form
from llmplug.server.record import record_of
from llmplug.server.routes.pages import cut_page
from llmplug.server.unknown_fields import report_unknown

if TYPE_CHECKING:
    from sanic import Request, Sanic
    from sanic.response import HTTPResponse, ResponseStream

    from llmplug.server.batches.file_store import FileStore
    from llmplug.server.batches.objects import StoredFile

PURPOSE = "batch"
FIELDS = frozenset({"file", "purpose", "expires_after[anchor]", "expires_after[seconds]"})
MAX_NAME_CHARS = 255
MAX_PAGE_FILES = 10_000  # OpenAI's, and what it lists unless told otherwise
LIFETIME_S = (3600, 30 * 86400)  # OpenAI's bounds


class FileUpload(BaseModel):
    """Fields of the form of `POST /v1/files`."""

    file: bytes
    purpose: str
    anchor: str | None = Field(None, alias="expires_after[anchor]")
    seconds: int | None = Field(None, alias="expires_after[seconds]")


def add_routes(app: Sanic[Any, Any], max_bytes: int) -> None:
    """Add these endpoints.

    Args:
        max_bytes: of an upload.
    """
    one = "/v1/files/<file_id:str>"
    app.add_route(
        upload_file,
        "/v1/files",
        methods=["POST"],
        ctx_schema=FileUpload,
        ctx_media_type="multipart/form-data",
        ctx_max_bytes=max_bytes,
        ctx_reply="File",
        ctx_min_prompts=0,  # but bytes
    )
    app.add_route(list_files, "/v1/files", methods=["GET"], ctx_reply="FilePage")
    app.add_route(show_file, one, methods=["GET"], ctx_reply="File")
    app.add_route(delete_file, one, methods=["DELETE"], ctx_reply="DeletedFile")
    app.add_route(
        show_content,  # type: ignore[arg-type]
        f"{one}/content",
        methods=["GET"],
        ctx_reply_type="application/octet-stream",
    )


async def upload_file(request: Request) -> HTTPResponse:
    """Keep a file for batches."""
    ticket = admit(request, 0)  # for the bytes that it takes meanwhile
    try:
        form = await asyncio.to_thread(read_form, request.content_type, request.body)
        headers = report_unknown(request, form.keys() - FIELDS)
        uploaded, store = form.get("file"), _store_of(request)
        if uploaded is None or uploaded.filename is None:
            raise InvalidRequest(
                "'file' is required, as a part of the form with a file name.",
                param="file",
                code="missing_required_parameter",
            )
        if "purpose" not in form or form["purpose"].text != PURPOSE:
            raise InvalidRequest(
                f"'purpose' must be {PURPOSE}: files are for batches here.", param="purpose"
            )
        file = make_file(
            record_of(request).caller,
            PURPOSE,
            uploaded.filename[:MAX_NAME_CHARS] or "file",
            len(uploaded.data),
            store.choose_expiry(_read_lifetime(form)),
        )
        await store.add(file, uploaded.data)
    finally:
        ticket.close()
    return as_json(file.to_json(), headers)


async def list_files(request: Request) -> HTTPResponse:
    """List the files, a page at a time."""
    purpose = request.args.get("purpose")
    files = await _store_of(request).list_owned(record_of(request).caller, purpose)
    listed = [file.to_json() for file in files]
    return as_json(cut_page(request, listed, MAX_PAGE_FILES, MAX_PAGE_FILES))


async def show_file(request: Request, file_id: str) -> HTTPResponse:
    """Describe a file."""
    return as_json((await find_file(request, file_id)).to_json())


async def show_content(request: Request, file_id: str) -> ResponseStream:
    """Answer with what a file holds."""
    file = await find_file(request, file_id)
    return await file_stream(
        _store_of(request).path_of(file.id), mime_type="application/octet-stream"
    )


async def delete_file(request: Request, file_id: str) -> HTTPResponse:
    """Forget a file."""
    file = await find_file(request, file_id)
    if not await _store_of(request).delete(file.owner, file.id):
        raise HttpError(409, "A batch still reads this file.", code="file_in_use")
    return as_json({"id": file_id, "object": "file", "deleted": True})


async def find_file(request: Request, file_id: str, param: str | None = None) -> StoredFile:
    """Return a file of the caller.

    Args:
        param: the field that names it; None: the path does.
    Raises:
        HttpError: 404, there is none.
        InvalidRequest: there is none, and a field names it.
    """
    file = await _store_of(request).find(record_of(request).caller, file_id)
    if file is not None:
        return file
    if param is None:
        raise _no_file(file_id)
    raise InvalidRequest(
        f"'{param}' is {file_id[:100]!r}, which is the id of no file.", param=param
    )


def _store_of(request: Request) -> FileStore:
    store: FileStore = request.app.ctx.files
    return store


def _no_file(file_id: str) -> HttpError:
    return HttpError(404, f"There is no file {file_id[:100]!r}.", code="file_not_found")


def _read_lifetime(form: Mapping[str, Part]) -> int | None:
    """Read `expires_after`; None: as long as files are kept."""
    anchor, seconds = form.get("expires_after[anchor]"), form.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor is None or anchor.text != "created_at":
        raise InvalidRequest(
            "'expires_after.anchor' must be created_at.", param="expires_after.anchor"
        )
    least, most = LIFETIME_S
    text = "" if seconds is None else seconds.text
    is_number = text.isascii() and text.isdigit() and len(text) < 18
    if not is_number or not least <= int(text) <= most:
        raise InvalidRequest(
            f"'expires_after.seconds' must be a whole number from {least} to {most}.",
            param="expires_after.seconds",
        )
    return int(text)
