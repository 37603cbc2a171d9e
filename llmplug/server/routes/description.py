"""GET /openapi.json, and GET /docs: the same to be read by people, without any outside asset."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import msgspec
from sanic.response import HTTPResponse

from llmplug.server.openapi import describe_api

if TYPE_CHECKING:
    from sanic import Request, Sanic

_PAGE = Path(__file__).with_name("description.html.jinja")
# Nothing is fetched, nothing runs; the one style stands in the page.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"


def add_routes(app: Sanic[Any, Any]) -> None:
    """Add these endpoints."""
    app.add_route(show_description, "/openapi.json", methods=["GET"], ctx_reply="Description")
    app.add_route(show_page, "/docs", methods=["GET"], ctx_reply_type="text/html")


async def show_description(request: Request) -> HTTPResponse:
    """Describe this API: OpenAPI 3.1."""
    return HTTPResponse(msgspec.json.encode(_describe(request)), content_type="application/json")


async def show_page(request: Request) -> HTTPResponse:
    """Describe this API on a page."""
    page = _open_page().render(api=_describe(request))
    headers = {"Content-Security-Policy": _POLICY}
    return HTTPResponse(page, headers=headers, content_type="text/html; charset=utf-8")


def _describe(request: Request) -> dict[str, Any]:
    app = request.app
    return describe_api(app, needs_key=not app.ctx.keys.is_open)


@lru_cache(maxsize=1)
def _open_page() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(_PAGE.read_text(encoding="utf-8"))
