"""GET, DELETE and cancel of /v1/responses/{id}, and GET of its input items."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmplug.errors import InvalidRequest
from llmplug.server.errors import HttpError, as_json
from llmplug.server.record import record_of
from llmplug.server.responses.prepare import load_conversation
from llmplug.server.routes.responses import follow_response

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sanic import Request, Sanic
    from sanic.response import HTTPResponse

    from llmplug.server.responses.background import BackgroundRuns
    from llmplug.server.responses.input_items import Item
    from llmplug.server.responses.store import ResponseStore, StoredResponse

DEFAULT_PAGE_ITEMS = 20  # OpenAI's, as is the next
MAX_PAGE_ITEMS = 100


def add_routes(app: Sanic[Any, Any]) -> None:
    """Add these endpoints."""
    one = "/v1/responses/<response_id:str>"
    app.add_route(show_response, one, methods=["GET"])
    app.add_route(delete_response, one, methods=["DELETE"])
    app.add_route(cancel_response, f"{one}/cancel", methods=["POST"], ctx_takes_no_body=True)
    app.add_route(list_input_items, f"{one}/input_items", methods=["GET"])


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
    after = _read_number(request, "starting_after", -1, 0, 2**53)
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
    """List what the model was given: the items of earlier responses too."""
    stored = await _find(request, response_id)
    conversation = await load_conversation(
        request.app.ctx.responses, stored.owner, stored.previous_id, stored.input
    )
    items = [*conversation.old, *conversation.new]
    # Calls of custom tools have a status here that they lack in answers.
    return as_json(cut_page(request, [{"status": "completed", **item} for item in items]))


def cut_page(request: Request, items: Sequence[Item]) -> dict[str, Any]:
    """The page of a list that a request asks for, the newest first unless it says otherwise."""
    order = request.args.get("order", "desc")
    if order not in {"asc", "desc"}:
        raise InvalidRequest("'order' must be asc or desc.", param="order")
    limit = _read_number(request, "limit", DEFAULT_PAGE_ITEMS, 1, MAX_PAGE_ITEMS)
    listed = list(items) if order == "asc" else list(reversed(items))
    after = request.args.get("after")
    if after is not None:
        places = [i for i, item in enumerate(listed) if item["id"] == after]
        if not places:
            raise InvalidRequest(
                f"'after' is {after[:100]!r}, which is the id of no item in this list.",
                param="after",
            )
        listed = listed[places[0] + 1 :]
    page = listed[:limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else "",
        "last_id": page[-1]["id"] if page else "",
        "has_more": len(listed) > limit,
    }


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


def _read_number(request: Request, name: str, default: int, least: int, most: int) -> int:
    text = request.args.get(name)
    if text is None:
        return default
    is_number = text.isascii() and text.isdigit() and len(text) < 18
    if not is_number or not least <= int(text) <= most:
        raise InvalidRequest(f"'{name}' must be a whole number from {least} to {most}.", param=name)
    return int(text)
