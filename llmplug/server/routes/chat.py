"""POST /v1/chat/completions."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from llmplug.errors import InvalidRequest
from llmplug.server.body import check_fields, read_json
from llmplug.server.record import record_of
from llmplug.server.routes.answer import answer_stream, answer_whole, make_head, rename_param
from llmplug.server.schema.chat import ChatRequest
from llmplug.server.schema.chat_reply import ChatReply
from llmplug.server.schema.fields import UNSERVED_IN_CHAT, ignored_header, split_fields
from llmplug.server.schema.messages import read_messages
from llmplug.server.schema.reply import TokenNames

if TYPE_CHECKING:
    from sanic import Request, Sanic
    from sanic.response import HTTPResponse

    from llmplug.server.admission import Ticket
    from llmplug.server.generation import Generation
    from llmplug.server.schema.fields import SplitFields
    from llmplug.server.schema.messages import Message
    from llmplug.server.service import ModelService, Service


def add_routes(app: Sanic[Any, Any]) -> None:
    """Add this endpoint."""
    app.add_route(create_chat_completion, "/v1/chat/completions", methods=["POST"])


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
    headers = ignored_header([*fields.ignored, *ignored])
    reply = ChatReply(
        make_head(model, "chatcmpl"),
        TokenNames(model.tokenizer),
        has_logprobs=bool(asked.logprobs),
        includes_usage=asked.includes_usage,
    )
    answer = answer_stream if asked.stream else answer_whole
    async with request.app.ctx.lifecycle.running(request):
        ticket = request.app.ctx.admission.enter(1)
        try:
            generation = await _prepare(request, model, asked, messages, fields, ticket)
            return await answer(request, generation, reply, headers)
        except InvalidRequest as error:
            raise rename_param(error, _param_names(asked)) from None
        finally:
            ticket.close()


async def _prepare(
    request: Request,
    model: ModelService,
    asked: ChatRequest,
    messages: list[Message],
    fields: SplitFields,
    ticket: Ticket,
) -> Generation:
    service: Service = request.app.ctx.service
    sampling = asked.to_sampling(
        max_tokens=asked.token_limit, logprobs=asked.num_logprobs, extra=fields.extra
    )
    is_continued = bool(asked.continue_final_message)
    started_at = time.perf_counter()
    prompt_ids = await model.render(
        messages,
        add_generation_prompt=asked.add_generation_prompt is not False and not is_continued,
        continue_final_message=is_continued,
        template_kwargs=asked.chat_template_kwargs,
    )
    service.metrics_of(model).observe_preparation(time.perf_counter() - started_at)
    return service.generate(
        model,
        [prompt_ids],
        sampling,
        ticket,
        num_sequences=1 if asked.n is None else asked.n,
        priority=asked.priority or 0,
        cache_salt=salt_for(request, asked.cache_salt),
        tenant=record_of(request).caller,
        continues_text=is_continued,
    )


def salt_for(request: Request, salt: str | None) -> str:
    """Cached prefixes are shared within one API key, never across two."""
    caller = record_of(request).caller
    return f"{caller}/{salt or ''}" if caller else salt or ""


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
