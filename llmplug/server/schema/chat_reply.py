"""Chat bodies and stream chunks, in OpenAI's order and shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from llmplug.server.schema.reply import write_end, write_prompt

if TYPE_CHECKING:
    from llmplug.server.deltas import CallDelta, ChoiceDelta, TokenText, Usage
    from llmplug.server.schema.reply import JoinedChoice, ReplyHead, Shown, TokenNames

_encode = msgspec.json.encode


class ChatReply:
    """Encodes one chat request's reply.

    A chunk that carries only text is two prebuilt strings around the escaped text.

    Args:
        reasoning_names: fields that thinking is sent in; none of them: it is not sent.
        calls_functions: a call is sent as `function_call`, as the request's fields had it.
    """

    def __init__(
        self,
        head: ReplyHead,
        names: TokenNames,
        shown: Shown,
        reasoning_names: Sequence[str] = (),
        *,
        calls_functions: bool = False,
    ) -> None:
        self._head = head
        self._names = names
        self._shown = shown
        self._reasoning_names = reasoning_names
        self._calls_functions = calls_functions
        self._start = head.frame_start("chat.completion.chunk")
        self._text_end = b'},"logprobs":null,"finish_reason":null}]'

    def opening(self, num_choices: int) -> list[bytes]:
        """One chunk per choice that says who speaks."""
        role = {"role": "assistant", "content": "", "refusal": None}
        return [self._chunk(i, role, None, None) for i in range(num_choices)]

    def frames(self, delta: ChoiceDelta) -> list[bytes]:
        """The chunk of a delta; the finish reason comes in a chunk of its own."""
        frames = []
        end = self._shown.frame_end()
        if delta.prompt is not None and delta.index == 0:
            frames.append(self._prompt_chunk(delta))
        if delta.tokens or delta.token_ids:
            frames.append(self._token_chunk(delta))
        elif delta.text:
            frames.append(
                b'%b%d,"delta":{"content":%b%b%b'
                % (self._start, delta.index, _encode(delta.text), self._text_end, end)
            )
        if delta.reasoning and self._reasoning_names:
            frames.append(
                self._chunk(delta.index, self._reasoning_fields(delta.reasoning), None, None)
            )
        if delta.call is not None:
            fields = _call_fields(delta.call)
            calls = (
                {"function_call": fields["function"]}
                if self._calls_functions
                else {"tool_calls": [fields]}
            )
            frames.append(self._chunk(delta.index, calls, None, None))
        if delta.finish_reason is not None:
            reason = self._finish_reason(delta.finish_reason)
            frames.append(self._chunk(delta.index, {}, None, reason, write_end(delta)))
        return frames

    def closing(self, usage: Usage) -> list[bytes]:
        """A chunk without choices, if usage or timings are asked for."""
        fields = self._shown.closing_fields(usage)
        return [self._bare_chunk(fields)] if fields else []

    def body(self, choices: Sequence[JoinedChoice], usage: Usage) -> dict[str, Any]:
        """The reply in one piece."""
        return {
            **self._head.fields("chat.completion"),
            "choices": [
                {
                    "index": choice.index,
                    "message": self._message(choice),
                    "logprobs": self._logprobs(choice.tokens) if self._shown.logprobs else None,
                    "finish_reason": self._finish_reason(choice.finish_reason),
                    **write_end(choice),
                    **self._shown.choice_fields(choice),
                }
                for choice in choices
            ],
            "usage": usage.to_json(),
            **(write_prompt(choices[0].prompt, self._names) if choices[0].prompt else {}),
            **self._shown.timings(usage),
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
        calls = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": "".join(call.arguments)},
            }
            for call in choice.calls.values()
        ]
        if calls and self._calls_functions:
            message["function_call"] = calls[0]["function"]
        elif calls:
            message["tool_calls"] = calls
        return message

    def _finish_reason(self, reason: str | None) -> str | None:
        is_call = reason == "tool_calls" and self._calls_functions
        return "function_call" if is_call else reason

    def _reasoning_fields(self, reasoning: str) -> dict[str, str]:
        return dict.fromkeys(self._reasoning_names, reasoning)

    def _token_chunk(self, delta: ChoiceDelta) -> bytes:
        """Text with what is asked of its tokens."""
        fields = {"content": delta.text} if delta.text or delta.tokens else {}
        logprobs = self._logprobs(delta.tokens) if delta.tokens else None
        return self._chunk(delta.index, fields, logprobs, None, self._shown.choice_fields(delta))

    def _prompt_chunk(self, delta: ChoiceDelta) -> bytes:
        """The prompt belongs to the reply, and to none of its choices."""
        report = delta.prompt
        return self._bare_chunk(write_prompt(report, self._names)) if report is not None else b""

    def _bare_chunk(self, fields: dict[str, Any]) -> bytes:
        """A chunk without choices."""
        start = self._start.removesuffix(b'{"index":')
        return b"%b],%b\n\n" % (start, _encode(fields).removeprefix(b"{"))

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        logprobs: dict[str, Any] | None,
        finish_reason: str | None,
        more: dict[str, Any] | None = None,
    ) -> bytes:
        """One choice's chunk; `more` are fields of ours."""
        return b'%b%d,"delta":%b,"logprobs":%b,"finish_reason":%b%b}]%b' % (
            self._start,
            index,
            _encode(delta),
            _encode(logprobs),
            _encode(finish_reason),
            b"," + _encode(more)[1:-1] if more else b"",
            self._shown.frame_end(),
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
