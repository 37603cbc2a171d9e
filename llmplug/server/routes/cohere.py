"""POST /v2/embed, as Cohere's clients speak it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmplug.server.cohere import COHERE, find_input_prompt
from llmplug.server.errors import as_json
from llmplug.server.framing import use_framing
from llmplug.server.schema.cohere import CohereEmbedRequest, write_embeddings
from llmplug.server.text_input import Cut, encode_texts
from llmplug.server.vectors import admitted, make_id, make_vectors, read_request, write_usage

if TYPE_CHECKING:
    from sanic import Request, Sanic
    from sanic.response import HTTPResponse

    from llmplug.server.model_service import ModelService


def add_routes(app: Sanic[Any, Any]) -> None:
    """Add this endpoint."""
    use_framing(app, "/v2/embed", COHERE)
    app.add_route(
        embed,
        "/v2/embed",
        methods=["POST"],
        ctx_schema=CohereEmbedRequest,
        ctx_reply="EmbeddingsByType",
        ctx_min_prompts=1,
    )


async def embed(request: Request) -> HTTPResponse:
    """Make a vector of each text, in Cohere's forms."""
    model, asked, headers = read_request(request, CohereEmbedRequest, "embed")
    asked.check()
    prompt = find_input_prompt(model, asked.input_type)
    async with admitted(request):
        vectors = await make_vectors(
            request,
            model,
            await encode_texts(model, asked.texts, _read_cut(model, asked), prompt=prompt),
            dimensions=asked.output_dimension,
            priority=asked.priority,
        )
    body = {
        "id": make_id("embed"),
        "response_type": "embeddings_by_type",
        "embeddings": write_embeddings(vectors, asked.kinds),
        "texts": asked.texts,
        "meta": {
            "api_version": {"version": "2"},
            "billed_units": {"input_tokens": write_usage(request)["prompt_tokens"]},
        },
    }
    return as_json(body, headers)


def _read_cut(model: ModelService, asked: CohereEmbedRequest) -> Cut:
    """Read what becomes of texts that are too long: they lose their end unless told otherwise."""
    if asked.truncate == "NONE":
        return Cut(max_tokens=None)
    bounds = [each for each in (model.context_length, asked.max_tokens) if each is not None]
    return Cut(max_tokens=min(bounds, default=None), keeps_end=asked.truncate == "START")
