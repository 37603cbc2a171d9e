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
    app.add_route(list_models, "/v1/models", methods=["GET"], ctx_reply="ModelList")
    # A path, because names such as org/model hold slashes.
    app.add_route(show_model, "/v1/models/<model:path>", methods=["GET"], ctx_reply="Model")


async def list_models(request: Request) -> HTTPResponse:
    """List the models of the config, and how each of them is."""
    return as_json({"object": "list", "data": request.app.ctx.service.list_cards()})


async def show_model(request: Request, model: str) -> HTTPResponse:
    """Describe one model, found by name or alias."""
    return as_json(request.app.ctx.service.find_card(unquote(model)))
