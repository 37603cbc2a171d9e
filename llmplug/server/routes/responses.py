"""POST /v1/responses and /v1/responses/input_tokens."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmplug.errors import InvalidRequest
from llmplug.server.admission import admit
from llmplug.server.body import check_fields, read_json
from llmplug.server.errors import as_json
from llmplug.server.fit_prompt import check_counted, enough_to_answer
from llmplug.server.record import record_of
from llmplug.server.responses.conversations import extend_conversation, no_conversation
from llmplug.server.responses.framing import FollowFraming, WriterFraming
from llmplug.server.responses.input_items import read_items
from llmplug.server.responses.prepare import (
    Caller,
    Conversation,
    fill_references,
    load_previous,
    prepare_response,
)
from llmplug.server.responses.store import StoredResponse
from llmplug.server.responses.writer import ResponseWriter
from llmplug.server.routes.answer import Started
from llmplug.server.routes.chat import salt_for
from llmplug.server.schema.fields import split_fields
from llmplug.server.schema.reply import TokenNames
from llmplug.server.schema.responses import UNSERVED_IN_RESPONSES, ResponsesRequest, name_param
from llmplug.server.schema.responses_reply import make_id, start_response
from llmplug.server.schema.responses_tools import read_response_tools
from llmplug.server.sse import EventStream
from llmplug.server.unknown_fields import report_unknown

if TYPE_CHECKING:
    from sanic import Request, Sanic
    from sanic.response import HTTPResponse

    from llmplug.server.admission import Ticket
    from llmplug.server.generation import Generation
    from llmplug.server.model_service import ModelService
    from llmplug.server.responses.background import BackgroundRuns
    from llmplug.server.responses.input_items import Item
    from llmplug.server.responses.store import ConversationStore, ResponseStore
    from llmplug.server.schema.responses_tools import ResponseTools
    from llmplug.server.service import Service


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ask:
    """One request, read."""

    model: ModelService
    asked: ResponsesRequest
    tools: ResponseTools
    items: Sequence[Item]
    extra: dict[str, Any]  # parameters of samplers
    headers: dict[str, str]


def add_routes(app: Sanic[Any, Any]) -> None:
    """Add these endpoints."""
    app.add_route(
        create_response,
        "/v1/responses",
        methods=["POST"],
        ctx_schema=ResponsesRequest,
        ctx_reply="Response",
        ctx_min_prompts=1,
    )
    app.add_route(
        count_input_tokens,
        "/v1/responses/input_tokens",
        methods=["POST"],
        ctx_schema=ResponsesRequest,
        ctx_reply="InputTokens",
        ctx_min_prompts=1,
    )


async def create_response(request: Request, response_id: str | None = None) -> HTTPResponse | None:
    """Answer, streamed or whole, now or in the background.

    Args:
        response_id: that the response is to have; one that is stored by it is the answer. None: a
            new one.
    """
    app = request.app.ctx
    if response_id is not None:
        stored = await app.background.load(record_of(request).caller, response_id)
        if stored is not None:
            return as_json(stored.body)
    ask = _read(request)
    async with app.lifecycle.running(request):
        with ExitStack() as stack:
            ticket = admit(request, 1)
            stack.callback(ticket.close)
            conversation, generation = await _prepare(request, ask, ticket)
            record_of(request).usage = generation.usage
            writer = _make_writer(request, ask, response_id or make_id("resp"))
            if ask.asked.background:
                owner = record_of(request).caller
                await app.background.start(owner, writer, generation, conversation.new)
                stack.pop_all()  # the ticket is the run's now
                return await _answer_background(request, ask, writer)
            answer = _answer_stream if ask.asked.stream else _answer_whole
            return await answer(request, ask, writer, generation, conversation)


async def count_input_tokens(request: Request) -> HTTPResponse:
    """Say how long the prompt of a request would be; nothing is generated."""
    app = request.app.ctx
    ask = _read(request)
    async with app.lifecycle.running(request):
        ticket = admit(request, 1)
        try:
            _, generation = await _prepare(request, ask, ticket)
        finally:
            ticket.close()
    num_tokens = generation.usage.prompt_tokens
    check_counted(num_tokens, enough_to_answer(ask.model), "input")
    return as_json({"object": "response.input_tokens", "input_tokens": num_tokens}, ask.headers)


def _read(request: Request) -> _Ask:
    service: Service = request.app.ctx.service
    raw = read_json(request.body)
    model = service.find_for(raw)
    record_of(request).model = model.name
    fields = split_fields(raw, ResponsesRequest, UNSERVED_IN_RESPONSES, model.sampler_fields)
    asked = check_fields(ResponsesRequest, fields.served)
    ignored = asked.check()
    tools = read_response_tools(asked.tools, asked.tool_choice)
    items, unread = read_items([] if asked.input is None else asked.input)
    return _Ask(
        model=model,
        asked=asked,
        tools=tools,
        items=items,
        extra=fields.extra,
        headers=report_unknown(request, [*fields.ignored, *ignored, *tools.ignored, *unread]),
    )


async def _prepare(request: Request, ask: _Ask, ticket: Ticket) -> tuple[Conversation, Generation]:
    owner = record_of(request).caller
    conversation = await _load(request, ask, owner)
    caller = Caller(owner=owner, cache_salt=salt_for(request, ask.asked.cache_salt))
    try:
        generation = await prepare_response(
            request.app.ctx.service,
            ask.model,
            ask.asked,
            ask.asked.to_chat(ask.tools),
            conversation,
            ticket,
            extra=ask.extra,
            caller=caller,
        )
    except InvalidRequest as error:
        raise name_param(error) from None
    return conversation, generation


async def _load(request: Request, ask: _Ask, owner: str) -> Conversation:
    """Put what is stored before, and into, what a request says."""
    store: ResponseStore = request.app.ctx.responses
    new = await fill_references(store, owner, ask.items)
    old: Sequence[Item] = ()
    if ask.asked.previous_response_id is not None:
        old = await load_previous(store, owner, ask.asked.previous_response_id)
    elif ask.asked.conversation_id is not None:
        conversations: ConversationStore = request.app.ctx.conversations
        found = await conversations.load(owner, ask.asked.conversation_id)
        if found is None:
            raise no_conversation(ask.asked.conversation_id)
        old = found.items
    return Conversation(old=old, new=new)


def _make_writer(request: Request, ask: _Ask, response_id: str) -> ResponseWriter:
    names = request.app.ctx.reasoning_names
    return ResponseWriter(
        start_response(response_id, ask.asked, ask.tools, ask.model.name),
        TokenNames(ask.model.tokenizer),
        has_logprobs=ask.asked.has_logprobs,
        shows_reasoning=bool(names) and ask.asked.include_reasoning is not False,
        custom=ask.tools.custom,
    )


async def _answer_whole(
    request: Request,
    ask: _Ask,
    writer: ResponseWriter,
    generation: Generation,
    conversation: Conversation,
) -> HTTPResponse:
    """Answer with one JSON body: what a stream would end with."""
    try:
        async with aclosing(generation.deltas()) as deltas:
            async for delta in deltas:
                writer.take(delta)
    except InvalidRequest as error:
        raise name_param(error) from None
    writer.finish(generation.usage)
    await _store(request, ask, writer, conversation)
    return as_json(writer.response, ask.headers)


async def _answer_stream(
    request: Request,
    ask: _Ask,
    writer: ResponseWriter,
    generation: Generation,
    conversation: Conversation,
) -> None:
    """Answer with events; what goes wrong before the first of them keeps its status."""
    async with aclosing(generation.deltas()) as deltas, Started(deltas) as started:
        try:
            await started.settle()
        except InvalidRequest as error:
            raise name_param(error) from None
        async with EventStream(request, ask.headers, WriterFraming(writer)) as stream:
            await stream.send(b"".join(event.frame for event in writer.start()))
            async for delta in started:
                frames = b"".join(event.frame for event in writer.take(delta))
                if frames:
                    await stream.send(frames)
            *events, last = writer.finish(generation.usage)
            if events:
                await stream.send(b"".join(event.frame for event in events))
            # Before the last event: its reader may go on from this response at once.
            await _store(request, ask, writer, conversation)
            await stream.finish(last.frame)


async def _answer_background(
    request: Request, ask: _Ask, writer: ResponseWriter
) -> HTTPResponse | None:
    """Answer with the response as it is queued, or with its events as they come."""
    owner = record_of(request).caller
    background: BackgroundRuns = request.app.ctx.background
    if ask.asked.stream:
        await follow_response(request, writer.id, -1, ask.headers)
        return None
    stored = await background.load(owner, writer.id)
    return as_json(writer.response if stored is None else stored.body, ask.headers)


async def follow_response(
    request: Request, response_id: str, after: int, headers: dict[str, str]
) -> None:
    """Answer with the events of a response in the background, those with a number above `after`."""
    background: BackgroundRuns = request.app.ctx.background
    framing = FollowFraming(after)
    async with (
        aclosing(background.follow(record_of(request).caller, response_id, after)) as events,
        EventStream(request, headers, framing) as stream,
    ):
        async for event in events:
            framing.after = event.number
            if event.is_last:
                await stream.finish(event.frame)
                return
            await stream.send(event.frame)


async def _store(
    request: Request, ask: _Ask, writer: ResponseWriter, conversation: Conversation
) -> None:
    owner = record_of(request).caller
    stored = StoredResponse(owner=owner, body=writer.response, input=conversation.new)
    if ask.asked.is_stored:
        store: ResponseStore = request.app.ctx.responses
        await store.save(stored)
    await extend_conversation(request.app.ctx.conversations, stored)
