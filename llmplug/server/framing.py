"""How a protocol writes what every protocol has: errors, signs of life, the end of a stream.

Most endpoints speak OpenAI's. Routes of another protocol say so with `use_framing`, by path: an
error may come before a route is found, and its client reads one shape only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

if TYPE_CHECKING:
    from sanic import Request, Sanic

    from llmplug.server.errors import ErrorReply

# A message repeats what the client wrote; it never repeats a book.
MAX_MESSAGE_CHARS = 1000


class Framing(Protocol):
    """One protocol's frame around its replies."""

    @property
    def error_name(self) -> str:
        """What the description of the API calls its errors."""

    @property
    def heartbeat(self) -> bytes:
        """What keeps a silent stream open."""

    @property
    def end(self) -> bytes:
        """What ends a stream after its last event, an error included; may be empty."""

    def error_body(self, error: ErrorReply, request_id: str) -> bytes:
        """The JSON body of a refusal."""

    def error_event(self, error: ErrorReply, request_id: str) -> bytes:
        """The event that ends a stream which fails, without `end`."""

    def headers(self, request_id: str) -> dict[str, str]:
        """Headers of every reply."""


class OpenAIFraming:
    """OpenAI's error object; `data: [DONE]` ends a stream."""

    error_name = "Error"
    heartbeat = b": keep-alive\n\n"
    end = b"data: [DONE]\n\n"

    def error_body(self, error: ErrorReply, request_id: str) -> bytes:
        """OpenAI's error object."""
        return msgspec.json.encode(
            {
                "error": {
                    "message": error.message[:MAX_MESSAGE_CHARS],
                    "type": error.kind,
                    "param": error.param,
                    "code": error.code,
                }
            }
        )

    def error_event(self, error: ErrorReply, request_id: str) -> bytes:
        """The same as a `data:` line."""
        return b"data: %b\n\n" % self.error_body(error, request_id)

    def headers(self, request_id: str) -> dict[str, str]:
        """None of its own."""
        return {}


OPENAI = OpenAIFraming()


def use_framing(app: Sanic[Any, Any], path: str, framing: Framing) -> None:
    """Let `path` and what lies below it speak another protocol."""
    app.ctx.framings[path] = framing


def framing_of(request: Request) -> Framing:
    """The protocol of a request, by its path."""
    return find_framing(request.app.ctx.framings, request.path)


def find_framing(framings: Mapping[str, Framing], path: str) -> Framing:
    """The protocol of a path; the longest that fits."""
    fitting = [each for each in framings if path == each or path.startswith(f"{each}/")]
    return framings[max(fitting, key=len)] if fitting else OPENAI
