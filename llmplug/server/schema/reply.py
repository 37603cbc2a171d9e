"""What the replies of both generation endpoints are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

if TYPE_CHECKING:
    from llmplug.chat.tokenizer import Tokenizer
    from llmplug.server.deltas import ChoiceDelta, PromptReport, TokenText, Usage
    from llmplug.server.receipt import Receipt
    from llmplug.types import TokenLogprob


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
    token_ids: list[int] = field(default_factory=list)
    prompt: PromptReport | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None

    @property
    def text(self) -> str:
        """All of its content."""
        return "".join(self.texts)

    def add(self, delta: ChoiceDelta) -> None:
        """Take what is new."""
        self.texts.append(delta.text)
        self.reasonings.append(delta.reasoning)
        self.tokens.extend(delta.tokens)
        self.token_ids.extend(delta.token_ids)
        self.prompt = delta.prompt or self.prompt
        if delta.finish_reason is not None:
            self.finish_reason, self.stop_reason = delta.finish_reason, delta.stop_reason
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a request wants to see beside the text of its reply."""

    logprobs: bool = False
    token_ids: bool = False
    usage: bool = False  # at the end of a stream
    running_usage: Usage | None = None  # in every chunk, as it grows
    receipt: Receipt | None = None

    def frame_end(self) -> bytes:
        """What ends a chunk that has choices."""
        if self.running_usage is not None:
            return b',"usage":%b}\n\n' % msgspec.json.encode(self.running_usage.to_json())
        return b',"usage":null}\n\n' if self.usage else b"}\n\n"

    def choice_fields(self, choice: JoinedChoice | ChoiceDelta) -> dict[str, Any]:
        """What a choice has beside OpenAI's fields."""
        return {"token_ids": list(choice.token_ids)} if self.token_ids else {}

    def timings(self, usage: Usage) -> dict[str, Any]:
        """Where the time went, if that is asked for."""
        return {"timings": self.receipt.to_json(usage)} if self.receipt is not None else {}

    def closing_fields(self, usage: Usage) -> dict[str, Any]:
        """What the last chunk of a stream says; nothing: there is none."""
        return {**({"usage": usage.to_json()} if self.usage else {}), **self.timings(usage)}


class TokenNames:
    """How tokens are written in log-probabilities.

    Args:
        as_ids: by their numbers alone: `token_id:42`.
    """

    def __init__(self, tokenizer: Tokenizer, *, as_ids: bool = False) -> None:
        self._tokenizer = tokenizer
        self._as_ids = as_ids
        self._texts: dict[int, str] = {}

    def bytes(self, token_id: int) -> bytes:
        """The bytes that the token adds to the text."""
        return self._tokenizer.token_bytes(token_id)

    def text(self, token_id: int) -> str:
        r"""Its text; a part of a character is written `bytes:\xe2\x9c`, as OpenAI does."""
        if self._as_ids:
            return f"token_id:{token_id}"
        known = self._texts.get(token_id)
        if known is None:
            raw = self.bytes(token_id)
            try:
                known = raw.decode()
            except UnicodeDecodeError:
                known = "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
            self._texts[token_id] = known
        return known


def write_prompt(report: PromptReport, names: TokenNames) -> dict[str, Any]:
    """What is told of a prompt, as other servers write it."""
    fields: dict[str, Any] = {}
    if report.token_ids is not None:
        fields["prompt_token_ids"] = report.token_ids
    if report.logprobs is not None:
        fields["prompt_logprobs"] = [
            None if each is None else _write_position(each, names) for each in report.logprobs
        ]
    return fields


def write_end(choice: JoinedChoice | ChoiceDelta) -> dict[str, Any]:
    """What ended a choice, where it was something that the request asked for."""
    return {} if choice.stop_reason is None else {"stop_reason": choice.stop_reason}


def _write_position(position: TokenLogprob, names: TokenNames) -> dict[str, Any]:
    """The token that stands there, then those that were most probable, by id."""
    entries = {position.token_id: (position.logprob, position.rank)}
    for rank, (token_id, logprob) in enumerate(position.top, 1):
        entries.setdefault(token_id, (logprob, rank))
    return {
        str(token_id): {"logprob": logprob, "rank": rank, "decoded_token": names.text(token_id)}
        for token_id, (logprob, rank) in entries.items()
    }
