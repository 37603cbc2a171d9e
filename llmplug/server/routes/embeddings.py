"""POST /v1/embeddings."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from llmplug.engine.pool_limits import MAX_TEXTS
from llmplug.server.admission import admit
from llmplug.server.body import check_fields, read_json
from llmplug.server.deltas import Usage
from llmplug.server.errors import as_json
from llmplug.server.record import record_of
from llmplug.server.schema.embeddings import (
    UNSERVED_IN_EMBEDDINGS,
    EmbeddingsRequest,
    write_vector,
)
from llmplug.server.schema.fields import ignored_header, split_fields
from llmplug.server.schema.messages import read_messages
from llmplug.server.schema.prompts import read_prompts
from llmplug.server.text_input import encode_texts, find_prompt, read_cut
from llmplug.types import PoolRequest

if TYPE_CHECKING:
    from sanic import Request, Sanic
    from sanic.response import HTTPResponse

    from llmplug.server.model_service import ModelService
    from llmplug.server.service import Service


def add_routes(app: Sanic[Any, Any]) -> None:
    """Add this endpoint."""
    app.add_route(create_embeddings, "/v1/embeddings", methods=["POST"])


async def create_embeddings(request: Request) -> HTTPResponse:
    """Make a vector of each text."""
    service: Service = request.app.ctx.service
    raw = read_json(request.body)
    model = service.find_for(raw, "embed")
    record = record_of(request)
    record.model = model.name
    fields = split_fields(raw, EmbeddingsRequest, UNSERVED_IN_EMBEDDINGS, ())
    asked = check_fields(EmbeddingsRequest, fields.served)
    asked.check()
    usage = record.usage = Usage()
    async with request.app.ctx.lifecycle.running(request):
        ticket = admit(request, 1)
        try:
            pooling = PoolRequest(
                request_id=uuid.uuid4().hex,
                prompts=await _encode(model, asked),
                dimensions=asked.dimensions,
                is_normalised=asked.normalize,
                priority=asked.priority or 0,
                tenant=record.caller,
            )
            vectors = await service.pool(model, pooling, usage)
        finally:
            ticket.close()
    data = [
        {
            "object": "embedding",
            "index": i,
            "embedding": write_vector(vector, asked.encoding_format),
        }
        for i, vector in enumerate(vectors)
    ]
    body = {"object": "list", "data": data, "model": model.name, "usage": write_usage(usage)}
    return as_json(body, ignored_header(fields.ignored))


def write_usage(usage: Usage) -> dict[str, int]:
    """The usage of a request that generates nothing."""
    return {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.prompt_tokens}


async def _encode(model: ModelService, asked: EmbeddingsRequest) -> list[list[int]]:
    if asked.messages is not None:
        messages, _ = read_messages(asked.messages)
        prompt = await model.render(
            await model.find_renderer(None, has_tools=False),
            messages,
            add_generation_prompt=False,
            continue_final_message=False,
            tools=[],
            documents=None,
            template_kwargs=asked.chat_template_kwargs,
        )
        return await encode_texts(model, [prompt.ids], read_cut(model, asked))
    return await encode_texts(
        model,
        read_prompts(asked.input, "input", MAX_TEXTS),
        read_cut(model, asked),
        add_special_tokens=asked.add_special_tokens is not False,
        prompt=find_prompt(model, asked.prompt_name),
    )
