"""Tell messages to the model itself from others: ` to=self<|message|>I look.<|eom|>`.

The header of the first message has begun in the prompt: `<|start|>assistant`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from llmplug.answer_parts import MessageReader, search_for

if TYPE_CHECKING:
    from llmplug.dialect import AnswerContext, Event

MAX_HEADER = 512  # characters: what is longer is none

_START, _BODY = "<|start|>", "<|message|>"
_CLOSING = ("<|eom|>", "<|eot|>")
_HEADER_BEGUN = re.compile(r"(<\|start\|>\w*)?\s*(to=[\w.-]*)?(<(\|\w*\|?)?)?")
_BEGINNINGS = search_for(_START, _BODY, "to=", *_CLOSING)


class MessageParser(MessageReader):
    """The parser of one answer's thinking; see `llmplug.dialect.Parser`."""

    def __init__(self, context: AnswerContext) -> None:
        super().__init__(search_for(*_CLOSING), self._read_header)
        header, body, written = context.prompt_end.rpartition(_START)[2].partition(_BODY)
        if body and not any(marker in written for marker in _CLOSING):
            self._open_message(header, is_begun=bool(written.strip()))

    def finish(self) -> list[Event]:
        """Say that the answer is over; a header that broke off says nothing."""
        held, self._held = self._held, ""
        if self._state == self._read_text:
            self._say(held)
        elif not _HEADER_BEGUN.fullmatch(held):
            self._open_message("")
            self._say(held)
        self._emit("".join(self._space))
        return self._take()

    def _read_header(self, text: str) -> str:
        """Between texts: a header, or text that has none."""
        text = text.lstrip()
        marker = _BEGINNINGS.begins(text)
        if marker == "" or not text:
            return self._hold(text)  # too little to tell
        if marker in _CLOSING:  # of a message that is closed already
            return text[len(marker) :]
        header, body, rest = text.partition(_BODY)
        is_too_long = len(text) >= MAX_HEADER + len(_BODY) and len(header) > MAX_HEADER
        is_none = marker is None or ("<" in header.removeprefix(_START) and body)
        if is_too_long or is_none:
            self._open_message("")
            return text
        if not body:
            return self._hold(text)
        self._open_message(header)
        return rest

    def _open_message(self, header: str, *, is_begun: bool = False) -> None:
        self._open_text(is_reasoning="to=self" in header.split(), is_begun=is_begun)

    def _end_text(self, marker: str, text: str) -> str:
        self._state = self._read_header
        return text
