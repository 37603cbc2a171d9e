"""/v1/conversations: what responses go on with, by one id that stays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from llmplug.errors import InvalidRequest
from llmplug.server.body import check_fields, read_json
from llmplug.server.errors import HttpError, as_json
from llmplug.server.record import record_of
from llmplug.server.responses.conversations import no_conversation, start_conversation
from llmplug.server.responses.input_items import read_items, write_listed
from llmplug.server.responses.prepare import fill_references
from llmplug.server.routes.pages import cut_page
from llmplug.server.schema.responses import check_metadata
from llmplug.server.unknown_fields import report_unknown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sanic import Request, Sanic
    from sanic.response import HTTPResponse

    from llmplug.server.responses.input_items import Item
    from llmplug.server.responses.store import ConversationStore, StoredConversation


class ConversationFields(BaseModel):
    """The body of a request; which fields it may and must have is the endpoint's to say."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    items: Any = None  # read_items checks it
    metadata: dict[str, str] | None = None


def add_routes(app: Sanic[Any, Any]) -> None:
    """Add these endpoints."""
    every = "/v1/conversations"
    one = f"{every}/<conversation_id:str>"
    items = f"{one}/items"
    for writer, path, reply in (
        (create_conversation, every, "Conversation"),
        (update_conversation, one, "Conversation"),
        (add_items, items, "ItemPage"),
    ):
        app.add_route(
            writer, path, methods=["POST"], ctx_schema=ConversationFields, ctx_reply=reply
        )
    for handler, path, method, reply in (
        (show_conversation, one, "GET", "Conversation"),
        (delete_conversation, one, "DELETE", "DeletedConversation"),
        (list_items, items, "GET", "ItemPage"),
        (show_item, f"{items}/<item_id:str>", "GET", "Item"),
        (delete_item, f"{items}/<item_id:str>", "DELETE", "Conversation"),
    ):
        app.add_route(handler, path, methods=[method], ctx_reply=reply)


async def create_conversation(request: Request) -> HTTPResponse:
    """Begin a conversation, with items or without."""
    fields = check_fields(ConversationFields, read_json(request.body))
    metadata = fields.metadata or {}
    check_metadata(metadata)
    items, headers = await _read_items(request, fields.items or [])
    made = start_conversation(record_of(request).caller, items, metadata)
    await _store_of(request).create(made)
    return as_json(made.body, headers)


async def show_conversation(request: Request, conversation_id: str) -> HTTPResponse:
    """Answer with a conversation; its items are asked for apart."""
    return as_json((await _find(request, conversation_id)).body)


async def update_conversation(request: Request, conversation_id: str) -> HTTPResponse:
    """Replace what its client noted down."""
    fields = check_fields(ConversationFields, read_json(request.body))
    if fields.metadata is None or fields.items is not None:
        param = "metadata" if fields.metadata is None else "items"
        raise InvalidRequest(
            "'metadata' is required, and all that can be changed here.", param=param
        )
    check_metadata(fields.metadata)
    owner = record_of(request).caller
    body = await _store_of(request).set_metadata(owner, conversation_id, fields.metadata)
    if body is None:
        raise no_conversation(conversation_id)
    return as_json(body)


async def delete_conversation(request: Request, conversation_id: str) -> HTTPResponse:
    """Forget a conversation and its items; the responses that wrote them stay."""
    if not await _store_of(request).delete(record_of(request).caller, conversation_id):
        raise no_conversation(conversation_id)
    return as_json({"id": conversation_id, "object": "conversation.deleted", "deleted": True})


async def add_items(request: Request, conversation_id: str) -> HTTPResponse:
    """Add items at the end."""
    fields = check_fields(ConversationFields, read_json(request.body))
    if not isinstance(fields.items, list) or not fields.items:
        raise InvalidRequest("'items' must be a list of one item or more.", param="items")
    items, headers = await _read_items(request, fields.items)
    owner = record_of(request).caller
    kept = await _store_of(request).append_items(owner, conversation_id, items)
    if kept is None:
        raise no_conversation(conversation_id)
    page = {
        "object": "list",
        "data": [write_listed(item) for item in kept],
        "first_id": kept[0]["id"],
        "last_id": kept[-1]["id"],
        "has_more": False,
    }
    return as_json(page, headers)


async def list_items(request: Request, conversation_id: str) -> HTTPResponse:
    """List what was said, a page at a time."""
    stored = await _find(request, conversation_id)
    return as_json(cut_page(request, [write_listed(item) for item in stored.items]))


async def show_item(request: Request, conversation_id: str, item_id: str) -> HTTPResponse:
    """Answer with one item."""
    stored = await _find(request, conversation_id)
    for item in stored.items:
        if item["id"] == item_id:
            return as_json(write_listed(item))
    raise _no_item(item_id)


async def delete_item(request: Request, conversation_id: str, item_id: str) -> HTTPResponse:
    """Forget one item; answers with the conversation."""
    stored = await _find(request, conversation_id)
    if not await _store_of(request).delete_item(stored.owner, conversation_id, item_id):
        raise _no_item(item_id)
    return as_json(stored.body)


def _store_of(request: Request) -> ConversationStore:
    store: ConversationStore = request.app.ctx.conversations
    return store


async def _find(request: Request, conversation_id: str) -> StoredConversation:
    found = await _store_of(request).load(record_of(request).caller, conversation_id)
    if found is None:
        raise no_conversation(conversation_id)
    return found


async def _read_items(request: Request, raw: Any) -> tuple[Sequence[Item], dict[str, str]]:
    items, unread = read_items(raw, "items")
    owner = record_of(request).caller
    filled = await fill_references(request.app.ctx.responses, owner, items, "items")
    return filled, report_unknown(request, unread)


def _no_item(item_id: str) -> HttpError:
    return HttpError(404, f"There is no item {item_id[:100]!r} here.", code="item_not_found")
