"""Read an answer that is a row of messages: `<|channel|>final<|message|>Hello!<|return|>`.

The header of a message says what its text is: thinking in the channel `analysis`, arguments where
it is addressed to one of the functions, else content. The header of the first message has begun
in the prompt.
"""

from __future__ import annotations

import json
import re

from llmplug.answer_parts import MessageReader, search_for
from llmplug.dialect import AnswerContext, CallArguments, CallEnd, CallStart, Event

MAX_HEADER = 512  # characters: what is longer is none

_START, _BODY = "<|start|>", "<|message|>"
_CLOSING = ("<|end|>", "<|call|>", "<|return|>")
_BEGINNINGS = search_for(*_CLOSING, _START, "<|channel|>", "<|constrain|>", _BODY, "to=")
# In a text, a header's later parts mean nothing.
_ENDS = (*_CLOSING, _START, "<|channel|>")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_RECIPIENT = re.compile(r"\bto=([^\s<]+)")
_NAMESPACE = "functions."


class HarmonyParser(MessageReader):
    """The parser of one answer; see `llmplug.dialect.Parser`."""

    def __init__(self, context: AnswerContext) -> None:
        super().__init__(search_for(*_ENDS), self._read_header)
        self._names = {tool.name for tool in context.tools}
        self._index = -1  # of the last call
        self._arguments: list[str] | None = None  # of the call that is open
        self._is_begun = False  # the header is one for certain
        # The header, as far as it stands in the prompt.
        self._header, body, written = context.prompt_end.rpartition(_START)[2].partition(_BODY)
        if body and any(marker in written for marker in _ENDS):
            self._header = ""
        elif body:
            self._open_message(is_begun=bool(written.strip()))

    def finish(self) -> list[Event]:
        """Say that the answer is over; a header that broke off says nothing."""
        held, self._held = self._held, ""
        if held and self._state == self._read_text:
            self._say(held)
        elif held and not self._is_begun:
            self._open_text(is_reasoning=False)
            self._say(held)
        self._emit("".join(self._space))
        self._close_call()
        return self._take()

    # --- headers --------------------------------------------------------------------------------
    def _read_header(self, text: str) -> str:
        """Between texts: a header, or text that has none."""
        text = text.lstrip()
        if not self._is_begun:
            marker = _BEGINNINGS.begins(text)
            if marker == "" or not text:
                return self._hold(text)  # too little to tell
            if marker in _CLOSING:  # of a message that is closed already
                return text[len(marker) :]
            if marker is None:
                self._open_text(is_reasoning=False)
                return text
            self._is_begun = True
        header, body, rest = text.partition(_BODY)
        if len(text) >= MAX_HEADER + len(_BODY) and len(header) > MAX_HEADER:
            self._open_text(is_reasoning=False)
            self._say(text[:MAX_HEADER])
            return text[MAX_HEADER:]
        if not body:
            return self._hold(text)
        self._header += f" {header}"
        self._open_message()
        return rest

    def _open_message(self, *, is_begun: bool = False) -> None:
        """Begin the text of the message that the header says."""
        channel, recipient = _CHANNEL.search(self._header), _RECIPIENT.search(self._header)
        name = recipient.group(1).removeprefix(_NAMESPACE) if recipient is not None else ""
        is_function = recipient is not None and recipient.group(1).startswith(_NAMESPACE)
        is_thought = channel is not None and channel.group(1) == "analysis"
        self._open_text(is_reasoning=is_thought, is_begun=is_begun)
        if self._names and name and (is_function or name in self._names):
            self._index += 1
            self._arguments = []
            self._events.append(CallStart(self._index, name))

    # --- texts ----------------------------------------------------------------------------------
    def _end_text(self, marker: str, text: str) -> str:
        self._close_call()
        self._header = ""
        self._is_begun = False
        self._state = self._read_header
        return text if marker in _CLOSING else marker + text

    def _say(self, text: str) -> None:
        """Let text out but for white space beside markers; arguments keep theirs."""
        if self._arguments is None:
            super()._say(text)
            return
        text = text if self._arguments else text.lstrip()
        if text:
            self._arguments.append(text)
            self._events.append(CallArguments(self._index, text))

    def _close_call(self) -> None:
        if self._arguments is None:
            return
        if not self._arguments:
            self._say("{}")
        self._events.append(CallEnd(self._index, _is_object("".join(self._arguments))))
        self._arguments = None


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
