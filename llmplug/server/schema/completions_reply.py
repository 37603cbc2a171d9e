"""Completions bodies and stream chunks, in OpenAI's shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from llmplug.server.schema.reply import write_end, write_prompt

if TYPE_CHECKING:
    from llmplug.server.deltas import ChoiceDelta, TokenText, Usage
    from llmplug.server.schema.reply import JoinedChoice, ReplyHead, Shown, TokenNames

_encode = msgspec.json.encode


class CompletionsReply:
    """Encodes one completions request's reply; chunks look like whole replies."""

    def __init__(self, head: ReplyHead, names: TokenNames, shown: Shown) -> None:
        self._head = head
        self._names = names
        self._shown = shown
        self._start = head.frame_start("text_completion")

    def opening(self, num_choices: int) -> list[bytes]:
        """Nothing: completions have no roles."""
        return []

    def frames(self, delta: ChoiceDelta) -> list[bytes]:
        """The chunk of a delta; the finish reason comes in a chunk of its own."""
        frames = []
        if delta.tokens or delta.text or delta.token_ids or delta.prompt:
            frames.append(self._text_chunk(delta))
        if delta.finish_reason is not None:
            frames.append(
                self._chunk(delta.index, "", b"null", delta.finish_reason, write_end(delta))
            )
        return frames

    def closing(self, usage: Usage) -> list[bytes]:
        """A chunk without choices, if usage or timings are asked for."""
        fields = self._shown.closing_fields(usage)
        start = self._start.removesuffix(b'{"index":')
        return [b"%b],%b\n\n" % (start, _encode(fields).removeprefix(b"{"))] if fields else []

    def body(self, choices: Sequence[JoinedChoice], usage: Usage) -> dict[str, Any]:
        """The reply in one piece."""
        return {
            **self._head.fields("text_completion"),
            "choices": [
                {
                    "text": choice.text,
                    "index": choice.index,
                    "logprobs": self._logprobs(choice.tokens) if self._shown.logprobs else None,
                    "finish_reason": choice.finish_reason,
                    **write_end(choice),
                    **self._more(choice),
                }
                for choice in choices
            ],
            "usage": usage.to_json(),
            **self._shown.timings(usage),
        }

    def _text_chunk(self, delta: ChoiceDelta) -> bytes:
        logprobs = _encode(self._logprobs(delta.tokens)) if delta.tokens else b"null"
        return self._chunk(delta.index, delta.text, logprobs, None, self._more(delta))

    def _more(self, choice: JoinedChoice | ChoiceDelta) -> dict[str, Any]:
        """Fields of ours: each choice has its prompt, as a request may have several."""
        prompt = write_prompt(choice.prompt, self._names) if choice.prompt is not None else {}
        return {**prompt, **self._shown.choice_fields(choice)}

    def _chunk(
        self,
        index: int,
        text: str,
        logprobs: bytes,
        finish_reason: str | None,
        more: dict[str, Any],
    ) -> bytes:
        return b'%b%d,"text":%b,"logprobs":%b,"finish_reason":%b%b}]%b' % (
            self._start,
            index,
            _encode(text),
            logprobs,
            _encode(finish_reason),
            b"," + _encode(more)[1:-1] if more else b"",
            self._shown.frame_end(),
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
