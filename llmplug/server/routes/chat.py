"""POST /v1/chat/completions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmplug.errors import InvalidRequest
from llmplug.server.admission import admit
from llmplug.server.body import check_fields, read_json
from llmplug.server.delivery import read_delivery
from llmplug.server.param_names import rename_field
from llmplug.server.prepare_chat import prepare_chat
from llmplug.server.record import record_of
from llmplug.server.routes.answer import (
    answer_stream,
    answer_whole,
    choose_shown,
    make_head,
    rename_param,
)
from llmplug.server.schema.chat import ChatRequest
from llmplug.server.schema.chat_reply import ChatReply
from llmplug.server.schema.fields import UNSERVED_IN_CHAT, split_fields
from llmplug.server.schema.functions import NAMES as FUNCTION_NAMES
from llmplug.server.schema.messages import read_messages
from llmplug.server.schema.reply import TokenNames
from llmplug.server.unknown_fields import report_unknown

if TYPE_CHECKING:
    from sanic import Request, Sanic
    from sanic.response import HTTPResponse

    from llmplug.server.generation import Generation
    from llmplug.server.model_service import ModelService
    from llmplug.server.service import Service


def add_routes(app: Sanic[Any, Any]) -> None:
    """Add this endpoint."""
    app.add_route(
        create_chat_completion,
        "/v1/chat/completions",
        methods=["POST"],
        ctx_schema=ChatRequest,
        ctx_reply="ChatCompletion",
        ctx_min_prompts=1,
    )


async def create_chat_completion(request: Request) -> HTTPResponse | None:
    """Answer a conversation."""
    service: Service = request.app.ctx.service
    raw = read_json(request.body)
    model = service.find_for(raw)
    record_of(request).model = model.name
    fields = split_fields(raw, ChatRequest, UNSERVED_IN_CHAT, model.sampler_fields)
    asked = check_fields(ChatRequest, fields.served)
    asked.check()
    messages, ignored = read_messages(asked.messages)
    headers = report_unknown(request, [*fields.ignored, *ignored])
    answer = answer_stream if asked.stream else answer_whole
    async with request.app.ctx.lifecycle.running(request):
        ticket = admit(request, 1)
        try:
            generation = await prepare_chat(
                service,
                model,
                asked,
                messages,
                ticket,
                extra=fields.extra,
                cache_salt=salt_for(request, asked.cache_salt),
                tenant=record_of(request).caller,
                delivery=read_delivery(request, asked),
            )
            reply = _make_reply(request, model, asked, generation)
            return await answer(request, generation, reply, headers)
        except InvalidRequest as error:
            raise _rename(error, asked) from None
        finally:
            ticket.close()


def salt_for(request: Request, salt: str | None) -> str:
    """Cached prefixes are shared within one API key, never across two."""
    caller = record_of(request).caller
    return f"{caller}/{salt or ''}" if caller else salt or ""


def _make_reply(
    request: Request, model: ModelService, asked: ChatRequest, generation: Generation
) -> ChatReply:
    return ChatReply(
        make_head(model, "chatcmpl"),
        TokenNames(model.tokenizer, as_ids=bool(asked.return_tokens_as_token_ids)),
        choose_shown(asked, generation, has_logprobs=bool(asked.logprobs)),
        () if asked.include_reasoning is False else request.app.ctx.reasoning_names,
        calls_functions=asked.has_functions,
    )


def _rename(error: InvalidRequest, asked: ChatRequest) -> InvalidRequest:
    error = rename_param(error, _param_names(asked))
    return rename_field(error, FUNCTION_NAMES) if asked.has_functions else error


def _param_names(asked: ChatRequest) -> dict[str, str]:
    names = {
        "logprobs": "top_logprobs",
        "num_sequences": "n",
        "prompt": "messages",
        "prompt_ids": "messages",
    }
    if asked.max_completion_tokens is not None:
        names["max_tokens"] = "max_completion_tokens"
    return names
