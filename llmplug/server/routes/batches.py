"""/v1/batches: many requests in a file, answered in the background."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from llmplug.errors import InvalidRequest
from llmplug.server.batches.lines import ENDPOINTS
from llmplug.server.batches.objects import StoredBatch, make_batch
from llmplug.server.body import check_fields, read_json
from llmplug.server.errors import HttpError, as_json
from llmplug.server.record import record_of
from llmplug.server.routes.files import LIFETIME_S, find_file
from llmplug.server.routes.pages import cut_page
from llmplug.server.schema.responses import check_metadata

if TYPE_CHECKING:
    from sanic import Request, Sanic
    from sanic.response import HTTPResponse


_FIELDS = ConfigDict(strict=True, frozen=True, extra="forbid")


class OutputLifetime(BaseModel):
    """How long the files of a batch are kept."""

    model_config = _FIELDS

    anchor: Literal["created_at"]
    seconds: int = Field(ge=LIFETIME_S[0], le=LIFETIME_S[1])


class BatchRequest(BaseModel):
    """Fields of `POST /v1/batches`."""

    model_config = _FIELDS

    input_file_id: str
    endpoint: str
    completion_window: Literal["24h"]
    metadata: dict[str, str] | None = None
    output_expires_after: OutputLifetime | None = None


def add_routes(app: Sanic[Any, Any]) -> None:
    """Add these endpoints."""
    one = "/v1/batches/<batch_id:str>"
    app.add_route(
        create_batch, "/v1/batches", methods=["POST"], ctx_schema=BatchRequest, ctx_reply="Batch"
    )
    app.add_route(list_batches, "/v1/batches", methods=["GET"], ctx_reply="BatchPage")
    app.add_route(show_batch, one, methods=["GET"], ctx_reply="Batch")
    app.add_route(
        cancel_batch,
        f"{one}/cancel",
        methods=["POST"],
        ctx_takes_no_body=True,
        ctx_reply="Batch",
    )


async def create_batch(request: Request) -> HTTPResponse:
    """Begin to answer the lines of a file."""
    asked = check_fields(BatchRequest, read_json(request.body))
    if asked.endpoint not in ENDPOINTS:
        raise InvalidRequest(f"'endpoint' must be one of {', '.join(ENDPOINTS)}.", param="endpoint")
    check_metadata(asked.metadata or {})
    await find_file(request, asked.input_file_id, "input_file_id")
    await request.app.ctx.files.check_room(0)
    lifetime = asked.output_expires_after
    body = make_batch(asked.endpoint, asked.input_file_id, asked.metadata)
    await request.app.ctx.batch_runs.start(
        record_of(request).caller, body, None if lifetime is None else lifetime.seconds
    )
    return as_json(body)


async def list_batches(request: Request) -> HTTPResponse:
    """List the batches, a page at a time."""
    found = await request.app.ctx.batches.list_owned(record_of(request).caller)
    return as_json(cut_page(request, [batch.body for batch in found]))


async def show_batch(request: Request, batch_id: str) -> HTTPResponse:
    """Say how far a batch is."""
    return as_json((await _find(request, batch_id)).body)


async def cancel_batch(request: Request, batch_id: str) -> HTTPResponse:
    """End a batch; lines that are being answered still finish."""
    batch = await _find(request, batch_id)
    if batch.is_over:
        raise HttpError(
            409,
            f"The batch is {batch.body['status']} and cannot be cancelled.",
            code="batch_finished",
        )
    return as_json(await request.app.ctx.batch_runs.cancel(batch))


async def _find(request: Request, batch_id: str) -> StoredBatch:
    batch: StoredBatch | None = await request.app.ctx.batches.find(
        record_of(request).caller, batch_id
    )
    if batch is None:
        raise HttpError(404, f"There is no batch {batch_id[:100]!r}.", code="batch_not_found")
    return batch
