"""POST /pooling: what a model makes of texts, whatever it is for."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any

from llmplug.server.errors import as_json
from llmplug.server.schema.embeddings import PoolingRequest, write_vector
from llmplug.server.text_input import encode_input
from llmplug.server.vectors import (
    admitted,
    make_vectors,
    read_request,
    to_probabilities,
    write_list,
)

if TYPE_CHECKING:
    from sanic import Request, Sanic
    from sanic.response import HTTPResponse


def add_routes(app: Sanic[Any, Any]) -> None:
    """Add this endpoint."""
    app.add_route(
        pool,
        "/pooling",
        methods=["POST"],
        ctx_schema=PoolingRequest,
        ctx_reply="VectorList",
        ctx_min_prompts=1,
    )


async def pool(request: Request) -> HTTPResponse:
    """Make vectors of texts or of their tokens, or the probabilities of labels."""
    model, asked, headers = read_request(request, PoolingRequest, "embed", "classify")
    asked.check_input()
    task = asked.task or ("classify" if model.task == "classify" else "embed")
    asked.check_task(task)
    async with admitted(request):
        prompts = await encode_input(model, asked)
        vectors = await make_vectors(
            request,
            model,
            prompts,
            task=task,
            dimensions=asked.dimensions,
            is_normalised=asked.normalize,
            priority=asked.priority,
        )
    if task == "classify" and asked.use_activation is not False:
        vectors = [_activate(each) for each in vectors]
    data = []
    for i, (prompt, vector) in enumerate(zip(prompts, vectors, strict=True)):
        written = write_vector(vector, asked.encoding_format)
        if task == "token_embed" and isinstance(written, list):
            written = _split(written, len(prompt))
        data.append({"object": "pooling", "index": i, "data": written})
    return as_json(write_list(request, model, "pool", data), headers)


def _activate(logits: memoryview[float]) -> memoryview[float]:
    return memoryview(array("f", to_probabilities(logits.tolist())))


def _split(numbers: list[float], count: int) -> list[list[float]]:
    """Split what is flat into vectors of one length."""
    width = len(numbers) // count
    return [numbers[start : start + width] for start in range(0, len(numbers), width)]
