"""GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from llmplug.server.errors import as_json

if TYPE_CHECKING:
    from sanic import Request, Sanic
    from sanic.response import HTTPResponse


def add_routes(app: Sanic[Any, Any]) -> None:
    """Add these endpoints."""
    app.add_route(list_models, "/v1/models", methods=["GET"])
    # A path, because names such as org/model hold slashes.
    app.add_route(show_model, "/v1/models/<model:path>", methods=["GET"])


async def list_models(request: Request) -> HTTPResponse:
    """List the models that are served."""
    cards = [model.card() for model in request.app.ctx.service.models]
    return as_json({"object": "list", "data": cards})


async def show_model(request: Request, model: str) -> HTTPResponse:
    """Describe one model, found by name or alias."""
    return as_json(request.app.ctx.service.find(unquote(model)).card())
