"""GET /live, /ready, /health and /version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from sanic.response import HTTPResponse

from llmplug import __version__
from llmplug.server.errors import as_json

if TYPE_CHECKING:
    from sanic import Request, Sanic


def add_routes(app: Sanic[Any, Any]) -> None:
    """Add these endpoints."""
    app.add_route(live, "/live", methods=["GET"], ctx_reply="Life")
    app.add_route(ready, "/ready", methods=["GET"], ctx_reply="Health")
    app.add_route(ready, "/health", methods=["GET"], name="health", ctx_reply="Health")
    app.add_route(version, "/version", methods=["GET"], ctx_reply="Version")


async def live(_: Request) -> HTTPResponse:
    """Say that this process answers, whatever its engines do."""
    return as_json({"status": "live"})


async def ready(request: Request) -> HTTPResponse:
    """Say whether requests are taken; 503 with the reasons if not."""
    status, body = describe_health(request.app)
    return HTTPResponse(msgspec.json.encode(body), status=status, content_type="application/json")


def describe_health(app: Sanic[Any, Any]) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status and the body of /ready; from any thread."""
    service, lifecycle, watchdog = app.ctx.service, app.ctx.lifecycle, app.ctx.watchdog
    problems = watchdog.find_problems()
    is_ready = service.is_ready and not lifecycle.is_draining and not problems
    status = "ready" if is_ready else "draining" if lifecycle.is_draining else "not ready"
    body: dict[str, Any] = {"status": status, "models": service.describe_state()}
    if problems:
        body["problems"] = problems
    return 200 if is_ready else 503, body


async def version(_: Request) -> HTTPResponse:
    """Say which version runs."""
    return as_json({"version": __version__})
