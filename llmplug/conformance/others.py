"""Endpoints that a server may have."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from llmplug.conformance.checks import NotOffered, check, expect, expect_offered

if TYPE_CHECKING:
    from llmplug.conformance.target import Target


@check("responses")
def body(target: Target) -> None:
    """A response is completed or incomplete, and its output holds a message of text."""
    found = expect_offered(target.post("/v1/responses", input="Say hello.", max_output_tokens=16))
    expect(found.get("object") == "response", f"object is {found.get('object')!r}")
    expect(found.get("status") in ("completed", "incomplete"), f"status {found.get('status')!r}")
    messages = [item for item in found.get("output", ()) if item.get("type") == "message"]
    expect(messages, f"output is {found.get('output')}")
    expect(messages[-1]["content"][0]["type"] == "output_text", f"{messages[-1]}")


@check("responses")
def stream(target: Target) -> None:
    """Events are numbered from 0, begin with response.created, and end with one last event."""
    answer = target.post("/v1/responses", input="Say hello.", max_output_tokens=16, stream=True)
    if answer.status in (404, 405, 501):
        raise NotOffered
    events = [json.loads(event) for event in answer.events()]
    numbers = [event.get("sequence_number") for event in events]
    expect(numbers == list(range(len(events))), f"numbers are {numbers}")
    kinds = [event.get("type") for event in events]
    expect(kinds[:2] == ["response.created", "response.in_progress"], f"it begins with {kinds[:2]}")
    lasts = ("response.completed", "response.incomplete", "response.failed")
    expect(kinds[-1] in lasts, f"it ends with {kinds[-1]!r}")
    expect(sum(kind in lasts for kind in kinds) == 1, "several last events")


@check("embeddings")
def vectors(target: Target) -> None:
    """Each text has a vector, at its index, and all are of one length."""
    answer = target.post("/v1/embeddings", input=["one", "two"])
    if answer.status == 400:
        raise NotOffered  # the model makes none
    found = expect_offered(answer)
    data = found.get("data") or []
    expect([each.get("index") for each in data] == [0, 1], f"{len(data)} embeddings")
    expect(len({len(each["embedding"]) for each in data}) == 1, "vectors of different lengths")


CHECKS = (body, stream, vectors)
