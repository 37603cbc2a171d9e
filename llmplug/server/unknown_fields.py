"""Fields that nobody knows: told in a header, or refused where that is wanted."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from llmplug.errors import InvalidRequest
from llmplug.server.delivery import is_set
from llmplug.server.schema.fields import MAX_IGNORED_NAMES, MAX_NAME_CHARS, ignored_header

if TYPE_CHECKING:
    from sanic import Request

STRICT_HEADER = "X-Llmplug-Strict"


def report_unknown(request: Request, names: Collection[str]) -> dict[str, str]:
    """Return the header that lists fields nobody reads.

    Raises:
        InvalidRequest: there are some, and the request or the config wants them refused.
    """
    check_unknown(request, names)
    return ignored_header(names)


def check_unknown(request: Request, names: Collection[str]) -> None:
    """Refuse fields nobody reads, where that is wanted.

    Raises:
        InvalidRequest: there are some, and the request or the config wants them refused.
    """
    is_strict = request.app.ctx.strict_fields or is_set(request, STRICT_HEADER)
    if names and is_strict:
        shown = [repr(name[:MAX_NAME_CHARS]) for name in list(names)[:MAX_IGNORED_NAMES]]
        raise InvalidRequest(
            f"Unknown fields: {', '.join(shown)}.",
            param=next(iter(names))[:MAX_NAME_CHARS],
            code="unknown_parameter",
        )
