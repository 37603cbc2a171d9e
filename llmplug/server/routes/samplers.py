"""GET /v1/samplers: what a request's `samplers` may name, and the fields of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmplug.server.errors import as_json

if TYPE_CHECKING:
    from sanic import Request, Sanic
    from sanic.response import HTTPResponse


def add_routes(app: Sanic[Any, Any]) -> None:
    """Add this endpoint."""
    app.add_route(list_samplers, "/v1/samplers", methods=["GET"], ctx_reply="SamplerList")


async def list_samplers(request: Request) -> HTTPResponse:
    """List the samplers in the order in which they run when a request does not say."""
    return as_json({"object": "list", "data": list(request.app.ctx.service.samplers)})
