"""POST /v1/embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmplug.engine.pool_limits import MAX_TEXTS
from llmplug.server.errors import as_json
from llmplug.server.schema.embeddings import EmbeddingsRequest, write_vector
from llmplug.server.schema.messages import read_messages
from llmplug.server.schema.prompts import read_prompts
from llmplug.server.text_input import encode_texts, find_prompt, read_cut
from llmplug.server.vectors import admitted, make_vectors, read_request, write_usage

if TYPE_CHECKING:
    from sanic import Request, Sanic
    from sanic.response import HTTPResponse

    from llmplug.server.model_service import ModelService


def add_routes(app: Sanic[Any, Any]) -> None:
    """Add this endpoint."""
    app.add_route(
        create_embeddings, "/v1/embeddings", methods=["POST"], ctx_schema=EmbeddingsRequest
    )


async def create_embeddings(request: Request) -> HTTPResponse:
    """Make a vector of each text."""
    model, asked, headers = read_request(request, EmbeddingsRequest, "embed")
    asked.check()
    async with admitted(request):
        vectors = await make_vectors(
            request,
            model,
            await encode_input(model, asked),
            dimensions=asked.dimensions,
            is_normalised=asked.normalize,
            priority=asked.priority,
        )
    data = [
        {
            "object": "embedding",
            "index": i,
            "embedding": write_vector(vector, asked.encoding_format),
        }
        for i, vector in enumerate(vectors)
    ]
    body = {"object": "list", "data": data, "model": model.name, "usage": write_usage(request)}
    return as_json(body, headers)


async def encode_input(model: ModelService, asked: EmbeddingsRequest) -> list[list[int]]:
    """Turn what a request says into ids: texts, ids, or a conversation."""
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
