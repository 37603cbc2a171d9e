"""POST /v1/messages and /v1/messages/count_tokens, as Anthropic describes them."""

from __future__ import annotations

import uuid
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from llmplug.errors import InvalidRequest, UnsupportedParameter
from llmplug.server.admission import admit
from llmplug.server.anthropic.blocks import write_messages
from llmplug.server.anthropic.framing import ANTHROPIC
from llmplug.server.anthropic.reply import MessageWriter
from llmplug.server.anthropic.request import UNSERVED_IN_MESSAGES, CountRequest, MessagesRequest
from llmplug.server.body import check_fields, read_json
from llmplug.server.errors import as_json
from llmplug.server.fit_prompt import check_counted, enough_to_count
from llmplug.server.framing import use_framing
from llmplug.server.param_names import rename_field
from llmplug.server.prepare_chat import prepare_chat
from llmplug.server.record import record_of
from llmplug.server.routes.answer import answer_stream
from llmplug.server.routes.chat import salt_for
from llmplug.server.schema.fields import ignored_header, split_fields
from llmplug.server.schema.messages import read_messages
from llmplug.server.unknown_fields import check_unknown

if TYPE_CHECKING:
    from sanic import Request, Sanic
    from sanic.response import HTTPResponse

    from llmplug.chat.enough import Enough
    from llmplug.server.admission import Ticket
    from llmplug.server.generation import Generation
    from llmplug.server.model_service import ModelService
    from llmplug.server.schema.chat import ChatRequest
    from llmplug.server.schema.messages import Message
    from llmplug.server.service import Service

Asked = TypeVar("Asked", bound=CountRequest)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ask(Generic[Asked]):
    """One request, read."""

    model: ModelService
    asked: Asked
    messages: list[Message]
    extra: dict[str, Any]  # parameters of samplers
    ignored: list[str]  # fields without effect

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the reply."""
        return ignored_header(self.ignored)


def add_routes(app: Sanic[Any, Any]) -> None:
    """Add these endpoints, and let what lies below them speak Anthropic's."""
    use_framing(app, "/v1/messages", ANTHROPIC)
    for handler, path, schema, reply in (
        (create_message, "/v1/messages", MessagesRequest, "Message"),
        (count_tokens, "/v1/messages/count_tokens", CountRequest, "MessageTokens"),
    ):
        app.add_route(
            handler,
            path,
            methods=["POST"],
            ctx_schema=schema,
            ctx_reply=reply,
            ctx_min_prompts=1,
        )


async def create_message(request: Request) -> HTTPResponse | None:
    """Answer a conversation."""
    ask = _read(request, MessagesRequest)
    async with request.app.ctx.lifecycle.running(request):
        ticket = admit(request, 1)
        try:
            generation = await _prepare_wish(request, ask, ticket)
            writer = MessageWriter(
                f"msg_{uuid.uuid4().hex[:24]}",
                ask.model.name,
                generation.usage,
                shows_thinking=bool(request.app.ctx.reasoning_names),
            )
            if ask.asked.stream:
                await answer_stream(request, generation, writer, ask.headers)
                return None
            return await _answer_whole(request, generation, writer, ask.headers)
        except InvalidRequest as error:
            raise _rename(error) from None
        finally:
            ticket.close()


async def count_tokens(request: Request) -> HTTPResponse:
    """Say how long the prompt of a request would be; nothing is generated."""
    ask = _read(request, CountRequest)
    async with request.app.ctx.lifecycle.running(request):
        ticket = admit(request, 1)
        try:
            enough = enough_to_count(ask.model)
            generation = await _prepare(request, ask, ask.asked.to_chat(), ticket, None, enough)
            check_counted(generation.usage.prompt_tokens, enough, "messages")
        except InvalidRequest as error:
            raise _rename(error) from None
        finally:
            ticket.close()
    return as_json({"input_tokens": generation.usage.prompt_tokens}, ask.headers)


def _read(request: Request, schema: type[Asked]) -> _Ask[Asked]:
    service: Service = request.app.ctx.service
    raw = read_json(request.body)
    model = service.find_for(raw)
    record_of(request).model = model.name
    fields = split_fields(raw, schema, UNSERVED_IN_MESSAGES, model.sampler_fields)
    asked = check_fields(schema, fields.served)
    messages, unread = read_messages(write_messages(asked.system, asked.messages))
    ignored = [*fields.ignored, *unread]
    check_unknown(request, ignored)
    return _Ask(
        model=model,
        asked=asked,
        messages=messages,
        extra=fields.extra,
        ignored=ignored,
    )


async def _prepare_wish(request: Request, ask: _Ask[MessagesRequest], ticket: Ticket) -> Generation:
    """Make the generation; a budget that the engine cannot keep is a wish, and is told as ignored.

    Anthropic calls it a target.
    """
    chat = ask.asked.to_chat()
    salt = ask.asked.cache_salt
    try:
        return await _prepare(request, ask, chat, ticket, salt)
    except UnsupportedParameter as error:
        if error.param != "thinking_token_budget":
            raise
    ask.ignored.append("thinking.budget_tokens")
    chat = chat.model_copy(update={"thinking_token_budget": None})
    return await _prepare(request, ask, chat, ticket, salt)


async def _prepare(
    request: Request,
    ask: _Ask[Asked],
    chat: ChatRequest,
    ticket: Ticket,
    cache_salt: str | None,
    enough: Enough | None = None,
) -> Generation:
    generation = await prepare_chat(
        request.app.ctx.service,
        ask.model,
        chat,
        ask.messages,
        ticket,
        extra=ask.extra,
        cache_salt=salt_for(request, cache_salt),
        tenant=record_of(request).caller,
        enough=enough,
    )
    record_of(request).usage = generation.usage
    return generation


async def _answer_whole(
    request: Request, generation: Generation, writer: MessageWriter, headers: dict[str, str]
) -> HTTPResponse:
    """Answer with one JSON body: what a stream's events make."""
    async with aclosing(generation.deltas()) as deltas:
        async for delta in deltas:
            writer.frames(delta)
    return as_json(writer.message(), headers)


# What chats and the engine call a field -> what it is called here.
_NAMES = (
    (r"^tools\[(\d+)\]\.function\.parameters\b", r"tools[\1].input_schema"),
    (r"^tools\[(\d+)\]\.function\b", r"tools[\1]"),
    (r"^tool_choice\.function\b", "tool_choice"),
    (r"^parallel_tool_calls$", "tool_choice.disable_parallel_tool_use"),
    (r"^response_format(\.json_schema)?\b", "output_config.format"),
    (r"^reasoning_effort$", "output_config.effort"),
    (r"^chat_template_kwargs\.enable_thinking$", "thinking"),
    (r"^thinking_token_budget$", "thinking.budget_tokens"),
    (r"^stop\b", "stop_sequences"),
    (r"^max_completion_tokens$", "max_tokens"),
    (r"^(prompt|prompt_ids)$", "messages"),
)


def _rename(error: InvalidRequest) -> InvalidRequest:
    return rename_field(error, _NAMES)
