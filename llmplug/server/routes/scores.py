"""POST /v1/rerank, /v1/score and /v1/classify, and their paths without a version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmplug.server.cohere import COHERE
from llmplug.server.errors import as_json
from llmplug.server.framing import use_framing
from llmplug.server.schema.prompts import read_prompts
from llmplug.server.schema.scores import ClassifyRequest, RerankRequest, ScoreRequest, read_texts
from llmplug.server.scoring import score_pairs
from llmplug.server.text_input import encode_texts, read_cut
from llmplug.server.vectors import (
    admitted,
    make_id,
    make_vectors,
    read_request,
    to_probabilities,
    write_list,
    write_usage,
)

if TYPE_CHECKING:
    from sanic import Request, Sanic
    from sanic.response import HTTPResponse


def add_routes(app: Sanic[Any, Any]) -> None:
    """Add these endpoints; the second version of /rerank is Cohere's, and so are its errors."""
    use_framing(app, "/v2/rerank", COHERE)
    for handler, schema, reply, paths in (
        (rerank, RerankRequest, "Ranking", ("/v1/rerank", "/v2/rerank", "/rerank")),
        (score, ScoreRequest, "ScoreList", ("/v1/score", "/score")),
        (classify, ClassifyRequest, "ClassList", ("/v1/classify", "/classify")),
    ):
        for path in paths:
            name = path.strip("/").replace("/", "_")
            app.add_route(
                handler,
                path,
                methods=["POST"],
                name=name,
                ctx_schema=schema,
                ctx_reply=reply,
                ctx_min_prompts=1,
            )


async def rerank(request: Request) -> HTTPResponse:
    """Order documents by how well they fit a query, the best first."""
    model, asked, headers = read_request(request, RerankRequest, "embed", "classify")
    asked.check()
    documents = read_texts(asked.documents, "documents")
    async with admitted(request):
        scores = await score_pairs(
            request,
            model,
            [(asked.query, document) for document in documents],
            read_cut(model, asked),
            is_activated=asked.use_activation is not False,
            priority=asked.priority,
        )
    order = sorted(range(len(scores)), key=lambda i: -scores[i])[: asked.top_n or None]
    results = [
        {
            "index": i,
            **({} if asked.return_documents is False else {"document": {"text": documents[i]}}),
            "relevance_score": scores[i],
        }
        for i in order
    ]
    body = {
        "id": make_id("rerank"),
        "model": model.name,
        "usage": write_usage(request),
        "results": results,
    }
    return as_json(body, headers)


async def score(request: Request) -> HTTPResponse:
    """Score pairs of texts, in their order."""
    model, asked, headers = read_request(request, ScoreRequest, "embed", "classify")
    pairs = asked.read_pairs()
    async with admitted(request):
        scores = await score_pairs(
            request,
            model,
            pairs,
            read_cut(model, asked),
            is_activated=asked.use_activation is not False,
            priority=asked.priority,
        )
    data = [{"index": i, "object": "score", "score": each} for i, each in enumerate(scores)]
    return as_json(write_list(request, model, "score", data), headers)


async def classify(request: Request) -> HTTPResponse:
    """Say how probable each label of a text is."""
    model, asked, headers = read_request(request, ClassifyRequest, "classify")
    asked.check_truncation()
    texts = read_prompts(asked.input, "input")
    async with admitted(request):
        prompts = await encode_texts(
            model,
            texts,
            read_cut(model, asked),
            add_special_tokens=asked.add_special_tokens is not False,
        )
        logits = await make_vectors(
            request, model, prompts, task="classify", priority=asked.priority
        )
    data = []
    for i, each in enumerate(logits):
        is_raw = asked.use_activation is False
        probs = each.tolist() if is_raw else to_probabilities(each.tolist())
        best = max(range(len(probs)), key=probs.__getitem__)
        label = model.labels[best] if best < len(model.labels) else f"LABEL_{best}"
        data.append({"index": i, "label": label, "probs": probs, "num_classes": len(probs)})
    return as_json(write_list(request, model, "classify", data), headers)
