"""Deltas of a generation in, a response and its events out: each event is numbered, one is last."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from llmplug.server.responses.output_items import (
    CustomCallItem,
    FunctionCallItem,
    MessageItem,
    ReasoningItem,
)
from llmplug.server.schema.responses_reply import write_error, write_usage

if TYPE_CHECKING:
    from llmplug.server.deltas import ChoiceDelta, Usage
    from llmplug.server.errors import ErrorReply
    from llmplug.server.responses.output_items import OutputItem
    from llmplug.server.schema.reply import TokenNames
    from llmplug.server.schema.responses_reply import Fields

TERMINAL = frozenset({"response.completed", "response.incomplete", "response.failed"})


@dataclass(frozen=True, slots=True)
class ResponseEvent:
    """One event, as it was when it was told."""

    number: int
    kind: str
    json: bytes

    @property
    def is_last(self) -> bool:
        """Whether none comes after it."""
        return self.kind in TERMINAL

    @property
    def frame(self) -> bytes:
        """As it stands in a stream."""
        return b"event: %b\ndata: %b\n\n" % (self.kind.encode(), self.json)


class ResponseWriter:
    """Writes one response.

    Args:
        response: as `start_response` made it; the writer's own from here on.
        names: how tokens are written.
        has_logprobs: whether text comes with them.
        shows_reasoning: whether thinking is sent.
        custom: names of tools that take any text.
    """

    def __init__(
        self,
        response: Fields,
        names: TokenNames,
        *,
        has_logprobs: bool = False,
        shows_reasoning: bool = True,
        custom: Collection[str] = (),
    ) -> None:
        self.response = response
        self._names = names
        self._has_logprobs = has_logprobs
        self._shows_reasoning = shows_reasoning
        self._custom = custom
        self._open: OutputItem | None = None
        self._num_events = 0
        self._reason: str | None = None

    @property
    def id(self) -> str:
        """Of the response."""
        return str(self.response["id"])

    @property
    def is_over(self) -> bool:
        """Whether the last event was told."""
        return self.response["status"] not in {"queued", "in_progress"}

    def queue(self) -> list[ResponseEvent]:
        """Say that it is taken, and waits."""
        self.response["status"] = "queued"
        return [self._snap("response.created"), self._snap("response.queued")]

    def start(self) -> list[ResponseEvent]:
        """Say that it is being written."""
        self.response["status"] = "in_progress"
        first = [] if self._num_events else [self._snap("response.created")]
        return [*first, self._snap("response.in_progress")]

    def take(self, delta: ChoiceDelta) -> list[ResponseEvent]:
        """Tell what is new."""
        self._reason = delta.finish_reason or self._reason
        return list(self._take(delta))

    def finish(self, usage: Usage) -> list[ResponseEvent]:
        """Tell the end: all of it, or as much as there was room for."""
        events: list[ResponseEvent] = []
        is_cut = self._reason == "length"
        if self._open is None and not self.response["output"]:
            events += self._begin(self._make_message())
        events += self._close("incomplete" if is_cut else "completed")
        self.response["usage"] = write_usage(usage)
        if is_cut:
            self.response["incomplete_details"] = {"reason": "max_output_tokens"}
            return [*events, self._end("incomplete")]
        self.response["completed_at"] = int(time.time())
        return [*events, self._end("completed")]

    def fail(self, error: ErrorReply) -> list[ResponseEvent]:
        """Tell that it went wrong; what was written stays.

        It may still be said in place of another end, if that one was not sent.
        """
        self._num_events -= self.is_over
        events = self._close("incomplete")
        self.response["completed_at"] = self.response["incomplete_details"] = None
        self.response["error"] = write_error(error)
        return [*events, self._end("failed")]

    def cancel(self) -> list[ResponseEvent]:
        """Tell that it was cancelled; OpenAI has no event of that name, so it is incomplete."""
        events = self._close("incomplete")
        self.response["status"] = "cancelled"
        return [*events, self._snap("response.incomplete")]

    def _take(self, delta: ChoiceDelta) -> Iterator[ResponseEvent]:
        if delta.reasoning and not self._shows_reasoning:
            return
        if not (delta.text or delta.tokens or delta.reasoning or delta.call):
            return
        if self._open is None or not self._open.takes(delta):
            yield from self._close("completed")
            yield from self._begin(self._make(delta))
        if self._open is not None:
            for kind, fields in self._open.feed(delta):
                yield self._tell_of_item(kind, fields)

    def _make(self, delta: ChoiceDelta) -> OutputItem:
        call = delta.call
        if call is not None:
            kind = CustomCallItem if call.name in self._custom else FunctionCallItem
            return kind(call.index, call.id or "", call.name or "")
        return ReasoningItem() if delta.reasoning else self._make_message()

    def _make_message(self) -> OutputItem:
        return MessageItem(self._names, has_logprobs=self._has_logprobs)

    def _begin(self, item: OutputItem) -> list[ResponseEvent]:
        self._open = item
        added = {"item": item.describe("in_progress")}
        events = [self._tell("response.output_item.added", added)]
        return events + [self._tell_of_item(*told) for told in item.begin()]

    def _close(self, status: str) -> list[ResponseEvent]:
        item = self._open
        if item is None:
            return []
        events = [self._tell_of_item(*told) for told in item.end()]
        done = item.describe(status)
        events.append(self._tell("response.output_item.done", {"item": done}))
        self.response["output"].append(done)
        self._open = None
        return events

    def _tell_of_item(self, kind: str, fields: dict[str, Any]) -> ResponseEvent:
        item_id = self._open.id if self._open is not None else ""
        return self._tell(kind, {"item_id": item_id, **fields})

    def _tell(self, kind: str, fields: dict[str, Any]) -> ResponseEvent:
        return self._event(kind, {"output_index": len(self.response["output"]), **fields})

    def _end(self, status: str) -> ResponseEvent:
        self.response["status"] = status
        return self._snap(f"response.{status}")

    def _snap(self, kind: str) -> ResponseEvent:
        return self._event(kind, {"response": self.response})

    def _event(self, kind: str, fields: dict[str, Any]) -> ResponseEvent:
        number = self._num_events
        self._num_events += 1
        data = {"type": kind, "sequence_number": number, **fields}
        return ResponseEvent(number, kind, msgspec.json.encode(data))
