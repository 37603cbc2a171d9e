"""Chat bodies and stream chunks, in OpenAI's order and shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from llmplug.server.deltas import CallDelta, ChoiceDelta, TokenText, Usage
    from llmplug.server.schema.reply import JoinedChoice, ReplyHead, TokenNames

_encode = msgspec.json.encode


class ChatReply:
    """Encodes one chat request's reply.

    A chunk that carries only text is two prebuilt strings around the escaped text.

    Args:
        reasoning_names: fields that thinking is sent in; none of them: it is not sent.
    """

    def __init__(
        self,
        head: ReplyHead,
        names: TokenNames,
        *,
        has_logprobs: bool,
        includes_usage: bool,
        reasoning_names: Sequence[str] = (),
    ) -> None:
        self._head = head
        self._names = names
        self._has_logprobs = has_logprobs
        self._includes_usage = includes_usage
        self._reasoning_names = reasoning_names
        self._start = head.frame_start("chat.completion.chunk")
        self._end = b',"usage":null}\n\n' if includes_usage else b"}\n\n"
        self._text_end = b'},"logprobs":null,"finish_reason":null}]' + self._end

    def opening(self, num_choices: int) -> list[bytes]:
        """One chunk per choice that says who speaks."""
        role = {"role": "assistant", "content": "", "refusal": None}
        return [self._chunk(i, role, None, None) for i in range(num_choices)]

    def frames(self, delta: ChoiceDelta) -> list[bytes]:
        """The chunk of a delta; the finish reason comes in a chunk of its own."""
        frames = []
        if delta.tokens:
            logprobs = self._logprobs(delta.tokens)
            frames.append(self._chunk(delta.index, {"content": delta.text}, logprobs, None))
        elif delta.text:
            frames.append(
                b'%b%d,"delta":{"content":%b%b'
                % (self._start, delta.index, _encode(delta.text), self._text_end)
            )
        if delta.reasoning and self._reasoning_names:
            frames.append(
                self._chunk(delta.index, self._reasoning_fields(delta.reasoning), None, None)
            )
        if delta.call is not None:
            calls = {"tool_calls": [_call_fields(delta.call)]}
            frames.append(self._chunk(delta.index, calls, None, None))
        if delta.finish_reason is not None:
            frames.append(self._chunk(delta.index, {}, None, delta.finish_reason))
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
            **self._head.fields("chat.completion"),
            "choices": [
                {
                    "index": choice.index,
                    "message": self._message(choice),
                    "logprobs": self._logprobs(choice.tokens) if self._has_logprobs else None,
                    "finish_reason": choice.finish_reason,
                }
                for choice in choices
            ],
            "usage": usage.to_json(),
        }

    def _message(self, choice: JoinedChoice) -> dict[str, Any]:
        message: dict[str, Any] = {
            "role": "assistant",
            "content": choice.text or (None if choice.calls else ""),
            "refusal": None,
        }
        reasoning = "".join(choice.reasonings)
        if reasoning:
            message |= self._reasoning_fields(reasoning)
        if choice.calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": "".join(call.arguments)},
                }
                for call in choice.calls.values()
            ]
        return message

    def _reasoning_fields(self, reasoning: str) -> dict[str, str]:
        return dict.fromkeys(self._reasoning_names, reasoning)

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        logprobs: dict[str, Any] | None,
        finish_reason: str | None,
    ) -> bytes:
        return b'%b%d,"delta":%b,"logprobs":%b,"finish_reason":%b}]%b' % (
            self._start,
            index,
            _encode(delta),
            _encode(logprobs),
            _encode(finish_reason),
            self._end,
        )

    def _logprobs(self, tokens: Sequence[TokenText]) -> dict[str, Any]:
        return {"content": [self._token(token) for token in tokens], "refusal": None}

    def _token(self, token: TokenText) -> dict[str, Any]:
        return {
            **self._entry(token.token_id, token.logprob),
            "top_logprobs": [self._entry(i, logprob) for i, logprob in token.top],
        }

    def _entry(self, token_id: int, logprob: float | None) -> dict[str, Any]:
        return {
            "token": self._names.text(token_id),
            "logprob": logprob,
            "bytes": list(self._names.bytes(token_id)),
        }


def _call_fields(call: CallDelta) -> dict[str, Any]:
    """A call's first delta says all of it but its arguments, later ones nothing but those."""
    if call.name is None:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    return {
        "index": call.index,
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }
