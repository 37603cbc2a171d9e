"""GET /metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sanic.response import HTTPResponse

from llmplug.server.metrics import CONTENT_TYPE

if TYPE_CHECKING:
    from sanic import Request, Sanic


def add_routes(app: Sanic[Any, Any]) -> None:
    """Add this endpoint."""
    app.add_route(show_metrics, "/metrics", methods=["GET"], ctx_reply_type="text/plain")


async def show_metrics(request: Request) -> HTTPResponse:
    """Answer what Prometheus scrapes."""
    return HTTPResponse(request.app.ctx.service.metrics.render(), content_type=CONTENT_TYPE)
