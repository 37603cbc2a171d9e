"""POST /v1/responses/compact."""

from __future__ import annotations

import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from llmplug.errors import InvalidRequest
from llmplug.server.admission import admit
from llmplug.server.body import check_fields, read_json
from llmplug.server.errors import HttpError, as_json
from llmplug.server.record import record_of
from llmplug.server.responses.compaction import ASK_FOR_SUMMARY, SUMMARY_SHARE, make_compaction
from llmplug.server.responses.input_items import read_items
from llmplug.server.responses.prepare import (
    Caller,
    Conversation,
    fill_references,
    load_previous,
    prepare_response,
)
from llmplug.server.routes.chat import salt_for
from llmplug.server.schema.compaction import UNSERVED_IN_COMPACTION, CompactionRequest
from llmplug.server.schema.fields import split_fields
from llmplug.server.schema.responses import name_param
from llmplug.server.schema.responses_reply import make_id, write_usage
from llmplug.server.schema.responses_tools import ResponseTools
from llmplug.server.unknown_fields import report_unknown

if TYPE_CHECKING:
    from sanic import Request, Sanic
    from sanic.response import HTTPResponse

    from llmplug.server.admission import Ticket
    from llmplug.server.generation import Generation
    from llmplug.server.model_service import ModelService
    from llmplug.server.responses.store import ResponseStore
    from llmplug.server.service import Service

_DEFAULT_CONTEXT = 4096  # tokens; where an engine does not say yet


def add_routes(app: Sanic[Any, Any]) -> None:
    """Add this endpoint."""
    app.add_route(
        compact_conversation,
        "/v1/responses/compact",
        methods=["POST"],
        ctx_schema=CompactionRequest,
        ctx_reply="Compaction",
        ctx_min_prompts=1,
    )


async def compact_conversation(request: Request) -> HTTPResponse:
    """Sum up a conversation; answers with the items that it goes on from."""
    service: Service = request.app.ctx.service
    raw = read_json(request.body)
    model = service.find_for(raw)
    record_of(request).model = model.name
    fields = split_fields(raw, CompactionRequest, UNSERVED_IN_COMPACTION, ())
    asked = check_fields(CompactionRequest, fields.served)
    asked.check()
    new, unread = read_items([] if asked.input is None else asked.input)
    headers = report_unknown(request, [*fields.ignored, *unread])
    async with request.app.ctx.lifecycle.running(request):
        ticket = admit(request, 1)
        try:
            conversation = await _load(request, asked.previous_response_id, new)
            generation = await _prepare(request, model, asked, conversation, ticket)
            record_of(request).usage = generation.usage
            summary = await _read_text(generation)
        except InvalidRequest as error:
            raise name_param(error) from None
        finally:
            ticket.close()
    body = {
        "id": make_id("resp"),
        "object": "response.compaction",
        "created_at": int(time.time()),
        "output": make_compaction([*conversation.old, *conversation.new], summary),
        "usage": write_usage(generation.usage),
    }
    return as_json(body, headers)


async def _load(request: Request, previous_id: str | None, new: Any) -> Conversation:
    store: ResponseStore = request.app.ctx.responses
    owner = record_of(request).caller
    filled = await fill_references(store, owner, new)
    old = [] if previous_id is None else await load_previous(store, owner, previous_id)
    return Conversation(old=old, new=filled)


async def _prepare(
    request: Request,
    model: ModelService,
    asked: CompactionRequest,
    conversation: Conversation,
    ticket: Ticket,
) -> Generation:
    """Ask for the summary as the user would, after all that was said."""
    question, _ = read_items(ASK_FOR_SUMMARY)
    context = model.context_length or _DEFAULT_CONTEXT
    wish = asked.to_response(max(1, int(context * SUMMARY_SHARE)))
    return await prepare_response(
        request.app.ctx.service,
        model,
        wish,
        wish.to_chat(ResponseTools()),
        Conversation(old=conversation.old, new=[*conversation.new, *question]),
        ticket,
        extra={},
        caller=Caller(
            owner=record_of(request).caller, cache_salt=salt_for(request, asked.cache_salt)
        ),
    )


async def _read_text(generation: Generation) -> str:
    """All that is said, without thinking.

    Raises:
        HttpError: that is nothing: a conversation would be lost.
    """
    async with aclosing(generation.deltas()) as deltas:
        text = "".join([delta.text async for delta in deltas]).strip()
    if not text:
        raise HttpError(500, "The model wrote no summary.", code="no_summary", kind="server_error")
    return text
