"""POST /v1/embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmplug.server.errors import as_json
from llmplug.server.schema.embeddings import EmbeddingsRequest, write_vector
from llmplug.server.text_input import encode_input
from llmplug.server.vectors import admitted, make_vectors, read_request, write_usage

if TYPE_CHECKING:
    from sanic import Request, Sanic
    from sanic.response import HTTPResponse


def add_routes(app: Sanic[Any, Any]) -> None:
    """Add this endpoint."""
    app.add_route(
        create_embeddings,
        "/v1/embeddings",
        methods=["POST"],
        ctx_schema=EmbeddingsRequest,
        ctx_reply="EmbeddingList",
        ctx_min_prompts=1,
    )


async def create_embeddings(request: Request) -> HTTPResponse:
    """Make a vector of each text."""
    model, asked, headers = read_request(request, EmbeddingsRequest, "embed")
    asked.check_input()
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
