"""GET, DELETE and cancel of /v1/responses/{id}, and GET of its input items."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmplug.errors import InvalidRequest
from llmplug.server.errors import HttpError, as_json
from llmplug.server.record import record_of
from llmplug.server.responses.input_items import write_listed
from llmplug.server.routes.pages import cut_page, read_number
from llmplug.server.routes.responses import follow_response

if TYPE_CHECKING:
    from sanic import Request, Sanic
    from sanic.response import HTTPResponse

    from llmplug.server.responses.background import BackgroundRuns
    from llmplug.server.responses.store import ResponseStore, StoredResponse


def add_routes(app: Sanic[Any, Any]) -> None:
    """Add these endpoints."""
    one = "/v1/responses/<response_id:str>"
    app.add_route(show_response, one, methods=["GET"], ctx_reply="Response")
    app.add_route(delete_response, one, methods=["DELETE"], ctx_reply="DeletedResponse")
    app.add_route(
        cancel_response,
        f"{one}/cancel",
        methods=["POST"],
        ctx_takes_no_body=True,
        ctx_reply="Response",
    )
    app.add_route(list_input_items, f"{one}/input_items", methods=["GET"], ctx_reply="ItemPage")


async def show_response(request: Request, response_id: str) -> HTTPResponse | None:
    """Answer with a stored response, or with its events from a number on."""
    stored = await _find(request, response_id)
    if request.args.get("stream", "false").lower() != "true":
        return as_json(stored.body)
    if not stored.body["background"]:
        raise InvalidRequest(
            "Only a response with 'background' true can be streamed again: of others the events "
            "are not kept.",
            param="stream",
        )
    after = read_number(request, "starting_after", -1, 0, 2**53)
    async with request.app.ctx.lifecycle.running(request):
        await follow_response(request, response_id, after, {})
    return None


async def delete_response(request: Request, response_id: str) -> HTTPResponse:
    """Forget a response; one that is still written is ended first."""
    store: ResponseStore = request.app.ctx.responses
    background: BackgroundRuns = request.app.ctx.background
    owner = record_of(request).caller
    await background.cancel(owner, response_id)
    if not await store.delete(owner, response_id):
        raise _not_found(response_id)
    return as_json({"id": response_id, "object": "response", "deleted": True})


async def cancel_response(request: Request, response_id: str) -> HTTPResponse:
    """End a response in the background; one that has ended stays as it is."""
    stored = await _find(request, response_id)
    if not stored.body["background"]:
        raise InvalidRequest(
            "Only a response with 'background' true can be cancelled; end others by closing the "
            "connection.",
            param="response_id",
        )
    background: BackgroundRuns = request.app.ctx.background
    ended = await background.cancel(stored.owner, response_id)
    if ended is None:
        raise _not_found(response_id)
    return as_json(ended.body)


async def list_input_items(request: Request, response_id: str) -> HTTPResponse:
    """List what the model was given: the items of earlier responses too, if they are kept."""
    store: ResponseStore = request.app.ctx.responses
    chain = await store.load_chain(record_of(request).caller, response_id)
    if not chain:
        raise _not_found(response_id)
    *earlier, last = chain
    items = [item for each in earlier for item in (*each.input, *each.body["output"])]
    items += last.input
    return as_json(cut_page(request, [write_listed(item) for item in items]))


async def _find(request: Request, response_id: str) -> StoredResponse:
    background: BackgroundRuns = request.app.ctx.background
    stored = await background.load(record_of(request).caller, response_id)
    if stored is None:
        raise _not_found(response_id)
    return stored


def _not_found(response_id: str) -> HttpError:
    return HttpError(
        404, f"There is no response {response_id[:100]!r} here.", code="response_not_found"
    )
