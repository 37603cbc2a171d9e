"""Deltas of a generation -> content blocks: their events in order, and the message they make."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from llmplug.errors import EngineError

if TYPE_CHECKING:
    from llmplug.server.deltas import CallDelta, ChoiceDelta, Usage

_PING = b'event: ping\ndata: {"type":"ping"}\n\n'


@dataclass(slots=True)
class _OpenBlock:
    """The block that is being written, and the pieces of what it says."""

    kind: Literal["text", "thinking", "tool_use"]
    start: dict[str, Any]  # as it stands in content_block_start
    call: int = -1  # number of the call
    pieces: list[str] = field(default_factory=list)

    def finish(self) -> dict[str, Any]:
        """The block as the message has it."""
        said = "".join(self.pieces)
        if self.kind == "tool_use":
            return {**self.start, "input": _read_arguments(said)}
        if self.kind == "thinking":
            return {**self.start, "thinking": said, "signature": _sign(said)}
        return {**self.start, "text": said}


class MessageWriter:
    """Writes one message; whole replies are what the events make.

    Args:
        usage: of the generation; it grows while that runs.
        shows_thinking: whether thinking is sent.
    """

    def __init__(self, message_id: str, model: str, usage: Usage, *, shows_thinking: bool) -> None:
        self._head = {"id": message_id, "type": "message", "role": "assistant", "model": model}
        self._usage = usage
        self._shows_thinking = shows_thinking
        self._content: list[dict[str, Any]] = []  # blocks that are complete
        self._open: _OpenBlock | None = None
        self._has_calls = False
        self._stop_reason: str | None = None
        self._stop_sequence: str | None = None

    def opening(self, num_choices: int) -> list[bytes]:
        """The events before the first delta."""
        message = {**self._message(), "content": []}
        return [_event("message_start", {"message": message}), _PING]

    def frames(self, delta: ChoiceDelta) -> list[bytes]:
        """The events of a delta."""
        frames: list[bytes] = []
        if delta.reasoning and self._shows_thinking:
            frames += self._add("thinking", delta.reasoning)
        if delta.text:
            frames += self._add("text", delta.text)
        if delta.call is not None:
            frames += self._add_call(delta.call)
        if delta.finish_reason is not None:
            frames += self._close()
            self._stop(delta)
        return frames

    def closing(self, usage: Usage) -> list[bytes]:
        """The events after the last delta."""
        stop = {"stop_reason": self._stop_reason, "stop_sequence": self._stop_sequence}
        return [
            _event("message_delta", {"delta": stop, "usage": self._describe_usage()}),
            _event("message_stop", {}),
        ]

    def message(self) -> dict[str, Any]:
        """The message, once the last delta is taken."""
        return {**self._message(), "content": self._content}

    def _message(self) -> dict[str, Any]:
        return {
            **self._head,
            "stop_reason": self._stop_reason,
            "stop_sequence": self._stop_sequence,
            "usage": self._describe_usage(),
        }

    def _describe_usage(self) -> dict[str, int]:
        """Anthropic counts what was read from the cache apart from the rest of the prompt."""
        usage = self._usage
        return {
            "input_tokens": usage.prompt_tokens - usage.cached_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": usage.cached_tokens,
            "output_tokens": usage.completion_tokens,
        }

    def _add(self, kind: Literal["text", "thinking"], said: str) -> list[bytes]:
        frames: list[bytes] = []
        if self._open is None or self._open.kind != kind:
            empty = {"signature": ""} if kind == "thinking" else {}
            frames += self._start(_OpenBlock(kind, {"type": kind, kind: "", **empty}))
        return [*frames, self._change({"type": f"{kind}_delta", kind: said})]

    def _add_call(self, call: CallDelta) -> list[bytes]:
        frames: list[bytes] = []
        if call.name is not None:
            self._has_calls = True
            start: dict[str, Any] = {
                "type": "tool_use",
                "id": call.id,
                "name": call.name,
                "input": {},
            }
            frames += self._start(_OpenBlock("tool_use", start, call.index))
        elif self._open is None or self._open.call != call.index:
            raise EngineError("a call went on after another had begun")
        if call.arguments:
            frames.append(
                self._change({"type": "input_json_delta", "partial_json": call.arguments})
            )
        return frames

    def _start(self, block: _OpenBlock) -> list[bytes]:
        frames = self._close()
        self._open = block
        place = {"index": len(self._content), "content_block": block.start}
        return [*frames, _event("content_block_start", place)]

    def _change(self, delta: dict[str, Any]) -> bytes:
        if self._open is None:
            raise EngineError("a delta belongs to no block")
        self._open.pieces.append(next(said for name, said in delta.items() if name != "type"))
        return _event("content_block_delta", {"index": len(self._content), "delta": delta})

    def _close(self) -> list[bytes]:
        block, self._open = self._open, None
        if block is None:
            return []
        frames: list[bytes] = []
        index = {"index": len(self._content)}
        finished = block.finish()
        if block.kind == "thinking":
            signature = {"type": "signature_delta", "signature": finished["signature"]}
            frames.append(_event("content_block_delta", {**index, "delta": signature}))
        self._content.append(finished)
        return [*frames, _event("content_block_stop", index)]

    def _stop(self, delta: ChoiceDelta) -> None:
        if delta.finish_reason == "length":
            self._stop_reason = "max_tokens"
        elif self._has_calls:
            self._stop_reason = "tool_use"
        elif isinstance(delta.stop_reason, str):
            self._stop_reason, self._stop_sequence = "stop_sequence", delta.stop_reason
        else:
            self._stop_reason = "end_turn"


def _event(name: str, fields: dict[str, Any]) -> bytes:
    data = msgspec.json.encode({"type": name, **fields})
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)


def _read_arguments(said: str) -> Any:
    """Read a call's arguments; of one that was cut off nothing can be said."""
    try:
        return msgspec.json.decode(said) if said else {}
    except msgspec.DecodeError:
        return {}


def _sign(thinking: str) -> str:
    """What clients send back with a thought, and some leave it out without; nothing depends on it.

    Source: the field is opaque by Anthropic's description.
    """
    return hashlib.sha256(thinking.encode()).hexdigest()
