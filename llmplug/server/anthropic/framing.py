"""How errors stand on the wire, and what keeps a stream open: Anthropic's shapes and names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from llmplug.server.framing import MAX_MESSAGE_CHARS

if TYPE_CHECKING:
    from llmplug.server.errors import ErrorReply

# By HTTP status; other refusals are `invalid_request_error`, other failures `api_error`.
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class AnthropicFraming:
    """The error object of `/v1/messages`; a stream ends with its last event."""

    error_name = "AnthropicError"
    heartbeat = b'event: ping\ndata: {"type":"ping"}\n\n'
    end = b""

    def error_body(self, error: ErrorReply, request_id: str) -> bytes:
        """The error object. It has no place for a code: the message names what is wrong."""
        kind = _TYPES.get(error.status)
        if kind is None:
            kind = "api_error" if error.status >= 500 else "invalid_request_error"
        return msgspec.json.encode(
            {
                "type": "error",
                "error": {"type": kind, "message": error.message[:MAX_MESSAGE_CHARS]},
                "request_id": request_id,
            }
        )

    def error_event(self, error: ErrorReply, request_id: str) -> bytes:
        """The same as an event."""
        return b"event: error\ndata: %b\n\n" % self.error_body(error, request_id)

    def headers(self, request_id: str) -> dict[str, str]:
        """Anthropic's name for the id of a request."""
        return {"request-id": request_id}


ANTHROPIC = AnthropicFraming()
