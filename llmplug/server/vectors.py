"""Vectors of a request's texts, and what is computed of them: for all endpoints that need some."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel

from llmplug.server.admission import admit
from llmplug.server.body import check_fields, read_json
from llmplug.server.deltas import Usage
from llmplug.server.record import record_of
from llmplug.server.schema.embeddings import UNSERVED_WITH_TEXTS
from llmplug.server.schema.fields import split_fields
from llmplug.server.unknown_fields import report_unknown
from llmplug.types import PoolRequest

if TYPE_CHECKING:
    from sanic import Request

    from llmplug.server.model_service import ModelService
    from llmplug.server.service import Service
    from llmplug.specs import Task

Asked = TypeVar("Asked", bound=BaseModel)


def read_request(
    request: Request, schema: type[Asked], *tasks: Task
) -> tuple[ModelService, Asked, dict[str, str]]:
    """Read a request that has texts; return its model, its fields, and headers of the reply."""
    raw = read_json(request.body)
    model: ModelService = request.app.ctx.service.find_for(raw, *tasks)
    record_of(request).model = model.name
    fields = split_fields(raw, schema, UNSERVED_WITH_TEXTS, ())
    return model, check_fields(schema, fields.served), report_unknown(request, fields.ignored)


@asynccontextmanager
async def admitted(request: Request) -> AsyncIterator[None]:
    """Take a place for a request that reads texts whole, while it is answered.

    Raises:
        Overloaded: there is none.
        EngineUnavailable: the server shuts down.
    """
    async with request.app.ctx.lifecycle.running(request):
        ticket = admit(request, 1)
        try:
            yield
        finally:
            ticket.close()


async def make_vectors(
    request: Request,
    model: ModelService,
    prompts: list[list[int]],
    *,
    type_ids: list[list[int]] | None = None,
    task: Literal["embed", "classify", "token_embed"] = "embed",
    is_normalised: bool | None = None,
    dimensions: int | None = None,
    priority: int | None = None,
) -> list[memoryview[float]]:
    """Have the engine make a vector of each text; the request's record notes the tokens.

    Raises:
        LlmplugError: the request was refused, or failed.
    """
    service: Service = request.app.ctx.service
    record = record_of(request)
    trail = record.make_trail()
    record.usage = trail.usage
    pooling = PoolRequest(
        request_id=uuid.uuid4().hex,
        prompts=prompts,
        type_ids=type_ids or [],
        task=task,
        is_normalised=is_normalised,
        dimensions=dimensions,
        priority=priority or 0,
        tenant=record.caller,
    )
    return await service.pool(model, pooling, trail)


def write_usage(request: Request) -> dict[str, int]:
    """The usage of a request that generates nothing."""
    usage = record_of(request).usage or Usage()
    return {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.prompt_tokens}


def make_id(prefix: str) -> str:
    """A new id of a reply."""
    return f"{prefix}-{uuid.uuid4().hex}"


def to_probabilities(logits: Sequence[float]) -> list[float]:
    """Turn the scores of labels into probabilities: of a single one by itself."""
    if len(logits) == 1:
        return [sigmoid(logits[0])]
    highest = max(logits)
    weights = [math.exp(logit - highest) for logit in logits]
    total = sum(weights)
    return [weight / total for weight in weights]


def sigmoid(logit: float) -> float:
    """1 / (1 + exp(-logit)), without overflow."""
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    power = math.exp(logit)
    return power / (1 + power)


def dot(first: Sequence[float], second: Sequence[float]) -> float:
    """The product of two vectors; of two of length 1, the cosine between them."""
    return math.fsum(a * b for a, b in zip(first, second, strict=True))


def write_list(
    request: Request, model: ModelService, prefix: str, data: list[dict[str, Any]]
) -> dict[str, Any]:
    """The body around a list of results."""
    return {
        "id": make_id(prefix),
        "object": "list",
        "created": int(time.time()),
        "model": model.name,
        "data": data,
        "usage": write_usage(request),
    }
