"""What an ingress says itself: a request that no server answers, or does not answer to its end."""

from __future__ import annotations

from llmplug.deploy.messages import Headers, ReplyHead
from llmplug.server.anthropic.framing import ANTHROPIC
from llmplug.server.cohere import COHERE
from llmplug.server.errors import describe
from llmplug.server.framing import Framing, find_framing
from llmplug.server.responses.framing import RESPONSES

# As the routes of a server say it; a test compares the two.
FRAMINGS: dict[str, Framing] = {
    "/v1/messages": ANTHROPIC,
    "/v1/responses": RESPONSES,
    "/v2/embed": COHERE,
    "/v2/rerank": COHERE,
}


def write_refusal(path: str, error: Exception, request_id: str) -> tuple[ReplyHead, bytes]:
    """Write the whole reply that says `error` in the protocol of a path."""
    reply = describe(error)
    framing = find_framing(FRAMINGS, path)
    body = framing.error_body(reply, request_id)
    own = {"content-type": "application/json", "content-length": str(len(body))}
    named = {**own, **reply.headers, **framing.headers(request_id)}
    headers = tuple((k.lower().encode(), v.encode("latin-1")) for k, v in named.items())
    return ReplyHead(reply.status, headers), body


def write_last_event(path: str, error: Exception, request_id: str) -> bytes:
    """Write what ends a stream that fails, in the protocol of a path."""
    framing = find_framing(FRAMINGS, path)
    return b"\n\n" + framing.error_event(describe(error), request_id) + framing.end


def is_event_stream(headers: Headers) -> bool:
    """Return whether a reply may end with an event, whatever came before."""
    return any(
        name == b"content-type" and value.startswith(b"text/event-stream")
        for name, value in headers
    )
