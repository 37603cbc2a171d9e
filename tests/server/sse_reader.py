"""Reads event streams, and fails on what is not exactly one terminated stream."""

from __future__ import annotations

import json
from typing import Any

import httpx


def parse_events(text: str) -> list[Any]:
    """The JSON of every event; the last event must be [DONE], and no other may be."""
    assert text.endswith("\n\n")
    blocks = [block for block in text.split("\n\n") if block and not block.startswith(":")]
    assert all(block.startswith("data: ") for block in blocks)
    payloads = [block.removeprefix("data: ") for block in blocks]
    assert payloads[-1] == "[DONE]"
    assert payloads.count("[DONE]") == 1
    return [json.loads(payload) for payload in payloads[:-1]]


def read_events(response: httpx.Response) -> list[Any]:
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    return parse_events(response.text)


def joined_text(events: list[Any], index: int = 0) -> str:
    """What the chunks of one choice say together."""
    return "".join(
        choice.get("text", choice.get("delta", {}).get("content") or "")
        for event in events
        for choice in event["choices"]
        if choice["index"] == index
    )
