"""Tell messages to the model itself from others: ` to=self<|message|>I look.<|eom|>`.

The header of the first message has begun in the prompt: `<|start|>assistant`.
"""

from __future__ import annotations

import re

from llmplug.dialect import AnswerContext, Content, Event, Reasoning

MAX_HEADER = 512  # characters: what is longer is none
_MOST_AT_ONCE = 4096  # characters: each marker costs a copy of what stands behind it

_START, _BODY = "<|start|>", "<|message|>"
_CLOSING = ("<|eom|>", "<|eot|>")
_END_OF_TEXT = re.compile("|".join(map(re.escape, _CLOSING)))
_BEGINNINGS = (_START, _BODY, "to=", *_CLOSING)
_MOST = max(map(len, _BEGINNINGS)) - 1  # characters that may be the beginning of a marker


class MessageParser:
    """The parser of one answer's thinking; see `llmplug.dialect.Parser`."""

    def __init__(self, context: AnswerContext) -> None:
        self._events: list[Event] = []
        self._held = ""
        self._is_in_header = True
        self._is_thinking = False
        self._space: str | None = None  # what a marker may follow; None: one stood right before
        header, body, written = context.prompt_end.rpartition(_START)[2].partition(_BODY)
        if body and not _END_OF_TEXT.search(written):
            self._open_text(header)
            self._space = "" if written.strip() else None

    def feed(self, text: str) -> list[Event]:
        """Take more text."""
        for start in range(0, len(text), _MOST_AT_ONCE):
            self._read(text[start : start + _MOST_AT_ONCE])
        return self._take()

    def finish(self) -> list[Event]:
        """Say that the answer is over; a header that broke off says nothing."""
        held, self._held = self._held, ""
        if not self._is_in_header:
            self._say(held)
        elif not held.startswith((_START, "to=")):
            self._open_text("")
            self._say(held)
        if self._space:
            self._emit(self._space)
        return self._take()

    def _read(self, text: str) -> None:
        text = self._held + text
        self._held = ""
        while text:
            text = self._read_header(text) if self._is_in_header else self._read_text(text)

    def _read_header(self, text: str) -> str:
        """Between texts: a header, or text that has none."""
        text = text.lstrip()
        if text not in _BEGINNINGS and any(each.startswith(text) for each in _BEGINNINGS):
            self._held = text  # too little to tell
            return ""
        for marker in _CLOSING:  # of a message that is closed already
            if text.startswith(marker):
                return text[len(marker) :]
        header, body, rest = text.partition(_BODY)
        is_too_long = len(text) >= MAX_HEADER + len(_BODY) and len(header) > MAX_HEADER
        if is_too_long or not text.startswith(_BEGINNINGS):
            self._open_text("")
            return text
        if not body:
            self._held = text
            return ""
        self._open_text(header)
        return rest

    def _open_text(self, header: str) -> None:
        self._is_in_header = False
        self._space = None
        self._is_thinking = "to=self" in header.split()

    def _read_text(self, text: str) -> str:
        """Within a message; only its end means anything."""
        end = _END_OF_TEXT.search(text)
        if end is None:
            at = text.rfind("<", max(0, len(text) - _MOST))
            may_begin = at >= 0 and any(each.startswith(text[at:]) for each in _CLOSING)
            sure = at if may_begin else len(text)
            self._say(text[:sure])
            self._held = text[sure:]
            return ""
        self._say(text[: end.start()])
        self._space = None
        self._is_in_header = True
        return text[end.end() :]

    def _say(self, text: str) -> None:
        """Let text out but for white space beside markers."""
        text = text.lstrip() if self._space is None else self._space + text
        body = text.rstrip()
        if body:
            self._emit(body)
        if body or self._space is not None:
            self._space = text[len(body) :]

    def _emit(self, text: str) -> None:
        self._events.append(Reasoning(text) if self._is_thinking else Content(text))

    def _take(self) -> list[Event]:
        events, self._events = self._events, []
        return events
