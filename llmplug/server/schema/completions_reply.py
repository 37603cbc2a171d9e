"""Completions bodies and stream chunks, in OpenAI's shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from llmplug.server.deltas import ChoiceDelta, TokenText, Usage
    from llmplug.server.schema.reply import JoinedChoice, ReplyHead, TokenNames

_encode = msgspec.json.encode


class CompletionsReply:
    """Encodes one completions request's reply; chunks look like whole replies."""

    def __init__(
        self, head: ReplyHead, names: TokenNames, *, has_logprobs: bool, includes_usage: bool
    ) -> None:
        self._head = head
        self._names = names
        self._has_logprobs = has_logprobs
        self._includes_usage = includes_usage
        self._start = head.frame_start("text_completion")
        self._end = b',"usage":null}\n\n' if includes_usage else b"}\n\n"

    def opening(self, num_choices: int) -> list[bytes]:
        """Nothing: completions have no roles."""
        return []

    def frames(self, delta: ChoiceDelta) -> list[bytes]:
        """The chunk of a delta; the finish reason comes in a chunk of its own."""
        frames = []
        if delta.tokens or delta.text:
            logprobs = _encode(self._logprobs(delta.tokens)) if delta.tokens else b"null"
            frames.append(self._chunk(delta.index, delta.text, logprobs, None))
        if delta.finish_reason is not None:
            frames.append(self._chunk(delta.index, "", b"null", delta.finish_reason))
        return frames

    def closing(self, usage: Usage) -> list[bytes]:
        """The usage chunk, if it is asked for."""
        if not self._includes_usage:
            return []
        start = self._start.removesuffix(b'{"index":')
        return [b'%b],"usage":%b}\n\n' % (start, _encode(usage.to_json()))]

    def body(self, choices: Sequence[JoinedChoice], usage: Usage) -> dict[str, Any]:
        """The reply in one piece."""
        return {
            **self._head.fields("text_completion"),
            "choices": [
                {
                    "text": choice.text,
                    "index": choice.index,
                    "logprobs": self._logprobs(choice.tokens) if self._has_logprobs else None,
                    "finish_reason": choice.finish_reason,
                }
                for choice in choices
            ],
            "usage": usage.to_json(),
        }

    def _chunk(self, index: int, text: str, logprobs: bytes, finish_reason: str | None) -> bytes:
        return b'%b%d,"text":%b,"logprobs":%b,"finish_reason":%b}]%b' % (
            self._start,
            index,
            _encode(text),
            logprobs,
            _encode(finish_reason),
            self._end,
        )

    def _logprobs(self, tokens: Sequence[TokenText]) -> dict[str, Any]:
        return {
            "tokens": [self._names.text(token.token_id) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [self._top(token) for token in tokens],
            "text_offset": [token.offset for token in tokens],
        }

    def _top(self, token: TokenText) -> dict[str, float] | None:
        """The most probable tokens, and the chosen one where it is not among them."""
        if token.logprob is None:
            return None
        top = {self._names.text(i): logprob for i, logprob in token.top}
        top.setdefault(self._names.text(token.token_id), token.logprob)
        return top
