"""What the replies of both generation endpoints are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

if TYPE_CHECKING:
    from llmplug.chat.tokenizer import Tokenizer
    from llmplug.server.deltas import ChoiceDelta, TokenText, Usage


@dataclass(frozen=True, slots=True)
class ReplyHead:
    """The fields that every body and chunk of a reply repeats."""

    id: str
    created: int  # unix time, s
    model: str
    fingerprint: str

    def fields(self, kind: str) -> dict[str, Any]:
        """As JSON fields; `kind` is OpenAI's `object`."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }

    def frame_start(self, kind: str) -> bytes:
        """An event up to the first choice's index."""
        fields = msgspec.json.encode(self.fields(kind)).removesuffix(b"}")
        return b'data: %b,"choices":[{"index":' % fields


@dataclass(slots=True)
class JoinedCall:
    """A tool call whose deltas are joined."""

    id: str
    name: str
    arguments: list[str] = field(default_factory=list)  # pieces of JSON text


@dataclass(slots=True)
class JoinedChoice:
    """A choice whose deltas are joined."""

    index: int
    texts: list[str] = field(default_factory=list)
    reasonings: list[str] = field(default_factory=list)
    calls: dict[int, JoinedCall] = field(default_factory=dict)  # by index, in order
    tokens: list[TokenText] = field(default_factory=list)
    finish_reason: str | None = None

    @property
    def text(self) -> str:
        """All of its content."""
        return "".join(self.texts)

    def add(self, delta: ChoiceDelta) -> None:
        """Take what is new."""
        self.texts.append(delta.text)
        self.reasonings.append(delta.reasoning)
        self.tokens.extend(delta.tokens)
        self.finish_reason = delta.finish_reason or self.finish_reason
        if delta.call is not None:
            call = self.calls.setdefault(
                delta.call.index, JoinedCall(delta.call.id or "", delta.call.name or "")
            )
            call.arguments.append(delta.call.arguments)


class StreamedReply(Protocol):
    """Encodes the events of one request's reply for one endpoint."""

    def opening(self, num_choices: int) -> list[bytes]:
        """Events before the first delta."""

    def frames(self, delta: ChoiceDelta) -> list[bytes]:
        """Events of a delta."""

    def closing(self, usage: Usage) -> list[bytes]:
        """Events after the last delta."""


class Reply(StreamedReply, Protocol):
    """Encodes one request's reply, streamed or whole."""

    def body(self, choices: Sequence[JoinedChoice], usage: Usage) -> dict[str, Any]:
        """The reply in one piece."""


class TokenNames:
    """How tokens are written in log-probabilities."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._texts: dict[int, str] = {}

    def bytes(self, token_id: int) -> bytes:
        """The bytes that the token adds to the text."""
        return self._tokenizer.token_bytes(token_id)

    def text(self, token_id: int) -> str:
        r"""Its text; a part of a character is written `bytes:\xe2\x9c`, as OpenAI does."""
        known = self._texts.get(token_id)
        if known is None:
            raw = self.bytes(token_id)
            try:
                known = raw.decode()
            except UnicodeDecodeError:
                known = "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
            self._texts[token_id] = known
        return known
