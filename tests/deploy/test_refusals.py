"""What an ingress says itself has the shape that the servers behind it give their errors."""

from __future__ import annotations

import json

import pytest

from llmplug.config import BatchesConfig, ResponsesConfig, ServerConfig
from llmplug.deploy.refusals import FRAMINGS, write_last_event, write_refusal
from llmplug.errors import EngineUnavailable, Overloaded
from llmplug.server.app import create_app
from llmplug.server.service import Service

PATHS = ["/v1/chat/completions", "/v1/messages", "/v1/responses", "/v2/embed", "/nowhere"]


def test_paths_have_the_framing_that_their_routes_have() -> None:
    settings = ServerConfig(
        responses=ResponsesConfig(path="memory"), batches=BatchesConfig(path="none")
    )
    assert create_app(Service([]), settings).ctx.framings == FRAMINGS


@pytest.mark.parametrize("path", PATHS)
def test_a_refusal_is_a_whole_reply(path: str) -> None:
    head, body = write_refusal(path, Overloaded("Busy.", retry_after_s=3), "id-1")
    headers = dict(head.headers)
    assert head.status == 429
    assert headers[b"retry-after"] == b"3"
    assert int(headers[b"content-length"]) == len(body)
    assert "Busy." in json.dumps(json.loads(body))


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
def test_a_stream_ends_with_an_event_of_its_own(path: str) -> None:
    """Wherever it broke off: a line that was begun belongs to an event that nobody reads."""
    text = b'data: {"half' + write_last_event(path, EngineUnavailable("Gone."), "id-1")
    events = [event for event in text.split(b"\n\n") if event]
    assert b"Gone." in events[1]
    assert (events[-1] == b"data: [DONE]") == (path == "/v1/chat/completions")
