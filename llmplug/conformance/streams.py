"""Chats as events."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from llmplug.conformance.checks import check, expect, expect_ok

if TYPE_CHECKING:
    from llmplug.conformance.target import Target


def read_chunks(target: Target, **fields: Any) -> list[dict[str, Any]]:
    """Stream a chat; return its chunks, after a look at how the stream is made."""
    answer = target.chat(stream=True, **fields)
    expect(answer.status == 200, f"status {answer.status}: {answer.body[:120]!r}")
    kind = answer.headers.get("content-type", "")
    expect(kind.startswith("text/event-stream"), f"content-type is {kind!r}")
    events = answer.events()
    expect(events and events[-1] == "[DONE]", f"the last event is {events[-1:]!r}")
    expect(events.count("[DONE]") == 1, f"{events.count('[DONE]')} times [DONE]")
    chunks = [json.loads(event) for event in events[:-1]]
    for chunk in chunks:
        expect("error" not in chunk, f"{chunk}")
        expect(chunk.get("object") == "chat.completion.chunk", f"object {chunk.get('object')!r}")
    return chunks


def join(chunks: list[dict[str, Any]], index: int = 0) -> str:
    """What the chunks of one choice say."""
    return "".join(
        choice["delta"].get("content") or ""
        for chunk in chunks
        for choice in chunk["choices"]
        if choice["index"] == index
    )


@check("stream")
def order_of_chunks(target: Target) -> None:
    """One id for all chunks; the role comes first; one finish_reason, with the last delta."""
    chunks = read_chunks(target)
    expect(len({chunk.get("id") for chunk in chunks}) == 1, "several ids")
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    expect(choices[0]["delta"].get("role") == "assistant", f"the first delta is {choices[0]}")
    reasons = [choice.get("finish_reason") for choice in choices]
    expect(all(reason is None for reason in reasons[:-1]), f"finish_reasons are {reasons}")
    expect(reasons[-1] in ("stop", "length"), f"the last finish_reason is {reasons[-1]!r}")


@check("stream")
def same_as_whole(target: Target) -> None:
    """A stream says what the whole reply says."""
    fields: dict[str, Any] = {"temperature": 0, "max_tokens": 24}
    whole = expect_ok(target.chat(**fields))["choices"][0]["message"]["content"]
    streamed = join(read_chunks(target, **fields))
    expect(streamed == whole, f"streamed {streamed!r}, whole {whole!r}")


@check("stream")
def usage_when_asked(target: Target) -> None:
    """include_usage adds one last chunk without choices; without it no chunk has usage."""
    chunks = read_chunks(target, stream_options={"include_usage": True})
    last = chunks[-1]
    expect(last.get("choices") == [], f"the last chunk is {last}")
    usage = last.get("usage") or {}
    expect(usage.get("total_tokens", 0) > 0, f"usage is {usage}")
    expect(not any(chunk.get("usage") for chunk in chunks[:-1]), "usage before the last chunk")
    expect(not any(chunk.get("usage") for chunk in read_chunks(target)), "usage that nobody asked")


@check("stream")
def several_choices(target: Target) -> None:
    """Each of n choices has its own role, text and finish_reason."""
    chunks = read_chunks(target, n=2, temperature=1.0)
    for index in (0, 1):
        own = [c for chunk in chunks for c in chunk["choices"] if c["index"] == index]
        roles = [choice["delta"].get("role") for choice in own]
        expect(roles.count("assistant") == 1, f"roles of choice {index}: {roles}")
        reasons = [choice["finish_reason"] for choice in own if choice.get("finish_reason")]
        expect(len(reasons) == 1, f"finish_reasons of choice {index}: {reasons}")


CHECKS = (order_of_chunks, same_as_whole, usage_when_asked, several_choices)
