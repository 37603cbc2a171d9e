"""Whether a reply is what its protocol promises: whole, or failed, and exactly one of the two."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

FAILED_RESPONSE = "response.failed"
ENDS_OF_RESPONSES = {"response.completed", "response.incomplete", FAILED_RESPONSE, "error"}


class BrokenReplyError(Exception):
    """A reply that no client could make sense of."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a reply of status 200 came to; `error` is empty unless it says that it failed."""

    text: str
    error: str = ""


def read_whole(path: str, body: dict[str, Any]) -> Reply:
    """Read a reply that was not streamed.

    Raises:
        BrokenReplyError: it has no end, or not the form of its protocol.
    """
    try:
        if path == "/v1/responses":
            text = "".join(
                part["text"] for item in body["output"] for part in item.get("content", ())
            )
            return _check_end(body["status"], {"completed", "incomplete"}, text)
        if path == "/v1/messages":
            text = "".join(block["text"] for block in body["content"])
            return _check_end(body["stop_reason"], {"end_turn", "max_tokens"}, text)
        (choice,) = body["choices"]
        text = choice["text"] if path == "/v1/completions" else choice["message"]["content"]
        return _check_end(choice["finish_reason"], {"stop", "length"}, text)
    except (LookupError, TypeError, ValueError) as error:
        raise BrokenReplyError(f"{error!r} in {json.dumps(body)[:300]}") from error


def _check_end(end: str, expected: set[str], text: str) -> Reply:
    if end not in expected:
        raise BrokenReplyError(f"it ends with {end!r}")
    return Reply(text)


def read_stream(path: str, lines: str) -> Reply:
    """Read the server-sent events of a reply.

    Raises:
        BrokenReplyError: it has not exactly one end, or something follows it.
    """
    data = [line[6:] for line in lines.splitlines() if line.startswith("data: ")]
    if path == "/v1/responses":
        return _read_responses([json.loads(each) for each in data])
    if path == "/v1/messages":
        return _read_messages([json.loads(each) for each in data])
    if data.count("[DONE]") != 1 or data[-1] != "[DONE]":
        raise BrokenReplyError(f"{data.count('[DONE]')} [DONE] in {lines[-300:]!r}")
    return _read_chunks(path, [json.loads(each) for each in data[:-1]])


def _read_chunks(path: str, chunks: list[dict[str, Any]]) -> Reply:
    choices = [choice for chunk in chunks for choice in chunk.get("choices", ())]
    errors = [chunk["error"]["code"] for chunk in chunks if "error" in chunk]
    ends = [choice["finish_reason"] for choice in choices if choice.get("finish_reason")]
    if len(errors) + len(ends) != 1:
        raise BrokenReplyError(f"{len(errors)} errors and {len(ends)} ends")
    if path == "/v1/completions":
        return Reply("".join(choice["text"] for choice in choices), *errors)
    return Reply("".join(choice["delta"].get("content") or "" for choice in choices), *errors)


def _read_messages(events: list[dict[str, Any]]) -> Reply:
    ends = [event for event in events if event["type"] in {"message_stop", "error"}]
    if len(ends) != 1 or events[-1] is not ends[0]:
        raise BrokenReplyError(f"{len(ends)} ends, the last event is {events[-1:]}")
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    text = "".join(delta["text"] for delta in deltas)
    return Reply(text, ends[0]["error"]["type"] if ends[0]["type"] == "error" else "")


def _read_responses(events: list[dict[str, Any]]) -> Reply:
    ends = [event for event in events if event["type"] in ENDS_OF_RESPONSES]
    if len(ends) != 1 or events[-1] is not ends[0]:
        raise BrokenReplyError(f"{len(ends)} ends, the last event is {events[-1:]}")
    text = "".join(each["delta"] for each in events if each["type"] == "response.output_text.delta")
    if ends[0]["type"] == FAILED_RESPONSE:
        return Reply(text, str(ends[0]["response"]["error"]["code"]))
    return Reply(text, str(ends[0]["code"]) if ends[0]["type"] == "error" else "")
