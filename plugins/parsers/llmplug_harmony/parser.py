"""Read an answer that is a row of messages: `<|channel|>final<|message|>Hello!<|return|>`.

The header of a message says what its text is: thinking in the channel `analysis`, arguments where
it is addressed to one of the functions, else content. The header of the first message has begun
in the prompt.
"""

from __future__ import annotations

import json
import re

from llmplug.dialect import (
    AnswerContext,
    CallArguments,
    CallEnd,
    CallStart,
    Content,
    Event,
    Reasoning,
)

MAX_HEADER = 512  # characters: what is longer is none
_MOST_AT_ONCE = 4096  # characters: each marker costs a copy of what stands behind it

_START, _BODY = "<|start|>", "<|message|>"
_CLOSING = ("<|end|>", "<|call|>", "<|return|>")
_OPENING = (_START, "<|channel|>", "<|constrain|>", _BODY)
_MARKERS = (*_CLOSING, *_OPENING)
_BEGINNINGS = (*_MARKERS, "to=")
_MOST = max(map(len, _MARKERS)) - 1  # characters that may be the beginning of a marker
# In a text, a header's later parts mean nothing.
_END_OF_TEXT = re.compile("|".join(map(re.escape, (*_CLOSING, _START, "<|channel|>"))))
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_RECIPIENT = re.compile(r"\bto=([^\s<]+)")
_NAMESPACE = "functions."


class HarmonyParser:
    """The parser of one answer; see `llmplug.dialect.Parser`."""

    def __init__(self, context: AnswerContext) -> None:
        self._names = {tool.name for tool in context.tools}
        self._events: list[Event] = []
        self._held = ""
        self._index = -1  # of the last call
        self._arguments: list[str] | None = None  # of the call that is open
        self._is_reasoning = False
        self._space: str | None = None  # what a marker may follow; None: one stood right before
        self._header: str | None = ""  # None: within a text
        self._is_begun = False  # the header is one for certain
        header, body, written = context.prompt_end.rpartition(_START)[2].partition(_BODY)
        if not body:
            self._header = header
        elif not _END_OF_TEXT.search(written):
            self._header = header
            self._open_text()
            self._space = "" if written.strip() else None

    def feed(self, text: str) -> list[Event]:
        """Take more text."""
        for start in range(0, len(text), _MOST_AT_ONCE):
            self._read(text[start : start + _MOST_AT_ONCE])
        return self._take()

    def finish(self) -> list[Event]:
        """Say that the answer is over; a header that broke off says nothing."""
        held, self._held = self._held, ""
        if held and self._header is None:
            self._say(held)
        elif held and not self._is_begun:
            self._open_bare(held)
            self._say(held)
        if self._space:
            self._emit(self._space)
        self._close_call()
        return self._take()

    def _read(self, text: str) -> None:
        text = self._held + text
        self._held = ""
        while text:
            text = self._read_text(text) if self._header is None else self._read_header(text)

    # --- states ---------------------------------------------------------------------------------
    def _read_header(self, text: str) -> str:
        """Between texts: a header, or text that has none."""
        text = text.lstrip()
        if not self._is_begun:
            if text not in _MARKERS and any(each.startswith(text) for each in _BEGINNINGS):
                self._held = text  # too little to tell
                return ""
            for marker in _CLOSING:  # of a message that is closed already
                if text.startswith(marker):
                    return text[len(marker) :]
            if not text.startswith(_BEGINNINGS):
                return self._open_bare(text)
            self._is_begun = True
        header, body, rest = text.partition(_BODY)
        if len(text) >= MAX_HEADER + len(_BODY) and len(header) > MAX_HEADER:
            text = self._open_bare(text)
            self._say(text[:MAX_HEADER])
            return text[MAX_HEADER:]
        if not body:
            self._held = text
            return ""
        self._header = f"{self._header} {header}"
        self._open_text()
        return rest

    def _open_bare(self, text: str) -> str:
        """Take text without header for content."""
        self._header = None
        self._is_reasoning = False
        return text

    def _open_text(self) -> None:
        header, self._header = self._header or "", None
        channel, recipient = _CHANNEL.search(header), _RECIPIENT.search(header)
        name = recipient.group(1).removeprefix(_NAMESPACE) if recipient is not None else ""
        is_function = recipient is not None and recipient.group(1).startswith(_NAMESPACE)
        self._is_reasoning = channel is not None and channel.group(1) == "analysis"
        if self._names and name and (is_function or name in self._names):
            self._index += 1
            self._arguments = []
            self._events.append(CallStart(self._index, name))

    def _read_text(self, text: str) -> str:
        """Within a message."""
        end = _END_OF_TEXT.search(text)
        if end is None:
            at = text.rfind("<", max(0, len(text) - _MOST))
            may_begin = at >= 0 and any(marker.startswith(text[at:]) for marker in _MARKERS)
            sure = at if may_begin else len(text)
            self._say(text[:sure])
            self._held = text[sure:]
            return ""
        self._say(text[: end.start()])
        self._close_call()
        self._space = None
        self._header = ""
        self._is_begun = False
        return text[end.end() :] if end.group() in _CLOSING else text[end.start() :]

    # --- events ---------------------------------------------------------------------------------
    def _say(self, text: str) -> None:
        """Let text out but for white space beside markers."""
        if self._arguments is not None:
            text = text if self._arguments else text.lstrip()
            if text:
                self._arguments.append(text)
                self._events.append(CallArguments(self._index, text))
            return
        text = text.lstrip() if self._space is None else self._space + text
        body = text.rstrip()
        if body:
            self._emit(body)
        if body or self._space is not None:
            self._space = text[len(body) :]

    def _emit(self, text: str) -> None:
        self._events.append(Reasoning(text) if self._is_reasoning else Content(text))

    def _close_call(self) -> None:
        if self._arguments is None:
            return
        if not self._arguments:
            self._say("{}")
        self._events.append(CallEnd(self._index, _is_object("".join(self._arguments))))
        self._arguments = None

    def _take(self) -> list[Event]:
        events, self._events = self._events, []
        return events


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
