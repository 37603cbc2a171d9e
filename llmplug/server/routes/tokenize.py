"""POST /tokenize and /detokenize: what a model makes of a text, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, get_args

from pydantic import BaseModel

from llmplug.server.body import check_fields, read_json
from llmplug.server.errors import as_json
from llmplug.server.fit_prompt import check_counted, enough_to_count
from llmplug.server.prepare_chat import render_chat
from llmplug.server.record import record_of
from llmplug.server.schema.fields import split_fields
from llmplug.server.schema.messages import read_messages
from llmplug.server.schema.tokenize import DetokenizeRequest, TokenizeRequest
from llmplug.server.text_input import Cut, encode_texts
from llmplug.server.unknown_fields import report_unknown
from llmplug.server.vectors import admitted
from llmplug.specs import Task

if TYPE_CHECKING:
    from sanic import Request, Sanic
    from sanic.response import HTTPResponse

    from llmplug.chat.enough import Enough
    from llmplug.server.model_service import ModelService
    from llmplug.server.schema.chat import ChatRequest
    from llmplug.server.schema.messages import Message

Asked = TypeVar("Asked", bound=BaseModel)
_ANY_TASK: tuple[Task, ...] = get_args(Task)


def add_routes(app: Sanic[Any, Any]) -> None:
    """Add these endpoints."""
    for handler, path, schema, reply in (
        (tokenize, "/tokenize", TokenizeRequest, "Tokens"),
        (detokenize, "/detokenize", DetokenizeRequest, "Text"),
    ):
        app.add_route(
            handler,
            path,
            methods=["POST"],
            ctx_schema=schema,
            ctx_reply=reply,
            ctx_min_prompts=1,
        )


async def tokenize(request: Request) -> HTTPResponse:
    """Say which tokens the endpoints that answer would make of a text or a conversation."""
    model, asked, ignored = _read(request, TokenizeRequest)
    asked.check()
    messages: list[Message] = []
    if asked.messages is not None:
        messages, unread = read_messages(asked.messages)
        ignored += unread
    enough = enough_to_count(model)
    has_frame = asked.add_special_tokens is not False
    async with admitted(request):
        if asked.prompt is None:
            ids = await _encode_chat(model, asked.to_chat(), messages, enough)
        else:
            ids = await _encode_text(model, asked.prompt, has_frame, enough)
    check_counted(len(ids), enough, "messages" if asked.prompt is None else "prompt")
    name_of = model.tokenizer.library.id_to_token
    body = {
        "count": len(ids),
        "max_model_len": model.context_length,
        "tokens": ids,
        "token_strs": [name_of(token_id) for token_id in ids] if asked.return_token_strs else None,
    }
    return as_json(body, report_unknown(request, ignored))


async def detokenize(request: Request) -> HTTPResponse:
    """Say which text tokens stand for, marks of beginnings and ends among them."""
    model, asked, ignored = _read(request, DetokenizeRequest)
    asked.check(model.tokenizer.vocab_size)
    async with admitted(request):
        text = await model.decode(
            asked.tokens, skip_special_tokens=asked.skip_special_tokens is True
        )
    return as_json({"prompt": text}, report_unknown(request, ignored))


def _read(request: Request, schema: type[Asked]) -> tuple[ModelService, Asked, list[str]]:
    """Return the model, the fields, and the names of fields without effect."""
    raw = read_json(request.body)
    model: ModelService = request.app.ctx.service.find_for(raw, *_ANY_TASK)
    record_of(request).model = model.name
    fields = split_fields(raw, schema, {}, ())
    return model, check_fields(schema, fields.served), list(fields.ignored)


async def _encode_text(
    model: ModelService, text: str, has_frame: bool, enough: Enough
) -> list[int]:
    if model.task == "generate":
        return await model.encode(text, add_special_tokens=has_frame, enough=enough)
    # Texts that are read whole spell no control tokens.
    cut = Cut(max_tokens=None)
    (ids,) = await encode_texts(
        model, [text], cut, add_special_tokens=has_frame, context_length=enough.num_tokens
    )
    return ids


async def _encode_chat(
    model: ModelService, chat: ChatRequest, messages: list[Message], enough: Enough
) -> list[int]:
    use = chat.read_tool_use()
    return (await render_chat(model, chat, messages, use, enough)).ids
