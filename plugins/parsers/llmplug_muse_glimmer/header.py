"""Tell messages to the model itself from others: ` to=self<|message|>I look.<|eom|>`.

The header of the first message has begun in the prompt: `<|start|>assistant`.
"""

from __future__ import annotations

import re

from llmplug.answer_parts import search_for

MAX_HEADER = 512  # characters: what is longer is none

_START, _BODY = "<|start|>", "<|message|>"
_CLOSING = ("<|eom|>", "<|eot|>")
_HEADER_BEGUN = re.compile(r"(<\|start\|>\w*)?\s*(to=[\w.-]*)?(<(\|\w*\|?)?)?")
_BEGINNINGS = search_for(_START, _BODY, "to=", *_CLOSING)


def is_text_open(prompt_end: str) -> bool:
    """Whether a prompt ends within the text of a message."""
    _, body, written = prompt_end.rpartition(_START)[2].partition(_BODY)
    return bool(body) and not any(marker in written for marker in _CLOSING)


class MessageHeader:
    """Reads the header of one message; see `llmplug.dialect.HeaderReader`."""

    def __init__(self) -> None:
        self.is_thinking = False
        self._held = ""

    def feed(self, text: str) -> str | None:
        """Take more text; see `HeaderReader`."""
        text = (self._held + text).lstrip()
        marker = _BEGINNINGS.begins(text)
        while marker in _CLOSING:  # of a message that is closed already
            text = text[len(marker) :].lstrip()
            marker = _BEGINNINGS.begins(text)
        header, body, rest = text.partition(_BODY)
        self._held = text
        if not text or marker == "":
            return None  # too little to tell
        is_too_long = len(text) >= MAX_HEADER + len(_BODY) and len(header) > MAX_HEADER
        if is_too_long or marker is None or ("<" in header.removeprefix(_START) and body):
            return text
        if not body:
            return None
        self.is_thinking = "to=self" in header.split()
        return rest

    def finish(self) -> str:
        """Say that the answer is over; a header that broke off says nothing."""
        return "" if _HEADER_BEGUN.fullmatch(self._held) else self._held
