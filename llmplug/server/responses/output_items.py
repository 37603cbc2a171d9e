"""The items of an answer while they are written: text, thinking, calls, each with its events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from llmplug.server.schema.responses_reply import (
    make_id,
    write_logprobs,
    write_logprobs_of_delta,
)
from llmplug.server.schema.responses_tools import CUSTOM_FIELD

if TYPE_CHECKING:
    from llmplug.server.deltas import ChoiceDelta
    from llmplug.server.schema.reply import TokenNames
    from llmplug.server.schema.responses_reply import Fields

Told = tuple[str, dict[str, Any]]  # an event: its type, and what is special to it


class OutputItem(Protocol):
    """One item; `begin`, then `feed` as often as there is something, then `end`."""

    id: str

    def takes(self, delta: ChoiceDelta) -> bool:
        """Whether a delta belongs to it."""

    def begin(self) -> Iterator[Told]:
        """Events after it was added."""

    def feed(self, delta: ChoiceDelta) -> Iterator[Told]:
        """Events of what is new."""

    def end(self) -> Iterator[Told]:
        """Events before it is done."""

    def describe(self, status: str) -> Fields:
        """The item as far as it is written."""


class MessageItem:
    """Text for the reader."""

    def __init__(self, names: TokenNames, *, has_logprobs: bool) -> None:
        self.id = make_id("msg")
        self._names = names
        self._has_logprobs = has_logprobs
        self._texts: list[str] = []
        self._logprobs: list[Fields] = []
        self._is_begun = False

    def takes(self, delta: ChoiceDelta) -> bool:
        """Text, or tokens of it."""
        return bool(delta.text or delta.tokens)

    def begin(self) -> Iterator[Told]:
        """Its one part is added."""
        yield "response.content_part.added", {"content_index": 0, "part": self._part()}
        self._is_begun = True

    def feed(self, delta: ChoiceDelta) -> Iterator[Told]:
        """A piece of text, with its tokens if they are asked for."""
        logprobs = write_logprobs(delta.tokens, self._names) if self._has_logprobs else []
        self._texts.append(delta.text)
        self._logprobs += logprobs
        yield (
            "response.output_text.delta",
            {
                "content_index": 0,
                "delta": delta.text,
                "logprobs": write_logprobs_of_delta(logprobs),
            },
        )

    def end(self) -> Iterator[Told]:
        """All of the text, then its part."""
        logprobs = write_logprobs_of_delta(self._logprobs)
        text = "".join(self._texts)
        yield (
            "response.output_text.done",
            {"content_index": 0, "text": text, "logprobs": logprobs},
        )
        yield "response.content_part.done", {"content_index": 0, "part": self._part()}

    def describe(self, status: str) -> Fields:
        """A message of the assistant."""
        return {
            "id": self.id,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": [self._part()] if self._is_begun else [],
        }

    def _part(self) -> Fields:
        return {
            "type": "output_text",
            "text": "".join(self._texts),
            "annotations": [],
            "logprobs": list(self._logprobs),
        }


class ReasoningItem:
    """Thinking, as the model writes it; no summary is made."""

    def __init__(self) -> None:
        self.id = make_id("rs")
        self._texts: list[str] = []
        self._is_begun = False

    def takes(self, delta: ChoiceDelta) -> bool:
        """Thinking."""
        return bool(delta.reasoning)

    def begin(self) -> Iterator[Told]:
        """Its one part is added."""
        yield "response.content_part.added", {"content_index": 0, "part": self._part()}
        self._is_begun = True

    def feed(self, delta: ChoiceDelta) -> Iterator[Told]:
        """A piece of thinking."""
        self._texts.append(delta.reasoning)
        yield "response.reasoning_text.delta", {"content_index": 0, "delta": delta.reasoning}

    def end(self) -> Iterator[Told]:
        """All of it, then its part."""
        yield "response.reasoning_text.done", {"content_index": 0, "text": "".join(self._texts)}
        yield "response.content_part.done", {"content_index": 0, "part": self._part()}

    def describe(self, status: str) -> Fields:
        """A reasoning item."""
        return {
            "id": self.id,
            "type": "reasoning",
            "status": status,
            "summary": [],
            "content": [self._part()] if self._is_begun else [],
        }

    def _part(self) -> Fields:
        return {"type": "reasoning_text", "text": "".join(self._texts)}


class FunctionCallItem:
    """A call of a function; the first delta is given at once, as it has the name."""

    def __init__(self, index: int, call_id: str, name: str) -> None:
        self.id = make_id("fc")
        self._index = index
        self._call_id = call_id
        self._name = name
        self._arguments: list[str] = []

    def takes(self, delta: ChoiceDelta) -> bool:
        """More of the same call."""
        return delta.call is not None and delta.call.index == self._index

    def begin(self) -> Iterator[Told]:
        """Nothing: it has no parts."""
        return iter(())

    def feed(self, delta: ChoiceDelta) -> Iterator[Told]:
        """A piece of the arguments."""
        piece = delta.call.arguments if delta.call is not None else ""
        if piece:
            self._arguments.append(piece)
            yield "response.function_call_arguments.delta", {"delta": piece}

    def end(self) -> Iterator[Told]:
        """All of the arguments."""
        arguments = "".join(self._arguments)
        yield "response.function_call_arguments.done", {"arguments": arguments}

    def describe(self, status: str) -> Fields:
        """A function call."""
        return {
            "id": self.id,
            "type": "function_call",
            "status": status,
            "call_id": self._call_id,
            "name": self._name,
            "arguments": "".join(self._arguments),
        }


class CustomCallItem:
    """A call of a tool that takes any text.

    The model writes it as a function with one string; the text stands in JSON until it is whole,
    so it comes in one delta.
    """

    def __init__(self, index: int, call_id: str, name: str) -> None:
        self.id = make_id("ctc")
        self._index = index
        self._call_id = call_id
        self._name = name
        self._arguments: list[str] = []
        self._input = ""

    def takes(self, delta: ChoiceDelta) -> bool:
        """More of the same call."""
        return delta.call is not None and delta.call.index == self._index

    def begin(self) -> Iterator[Told]:
        """Nothing: it has no parts."""
        return iter(())

    def feed(self, delta: ChoiceDelta) -> Iterator[Told]:
        """Nothing yet."""
        self._arguments.append(delta.call.arguments if delta.call is not None else "")
        return iter(())

    def end(self) -> Iterator[Told]:
        """The text, in one piece."""
        self._input = _unwrap("".join(self._arguments))
        yield "response.custom_tool_call_input.delta", {"delta": self._input}
        yield "response.custom_tool_call_input.done", {"input": self._input}

    def describe(self, status: str) -> Fields:
        """A call of a custom tool; its type has no status."""
        del status
        return {
            "id": self.id,
            "type": "custom_tool_call",
            "call_id": self._call_id,
            "name": self._name,
            "input": self._input,
        }


def _unwrap(arguments: str) -> str:
    """The text in the arguments; what is no object with this one string is given as it is."""
    try:
        found = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    text = found.get(CUSTOM_FIELD) if isinstance(found, dict) else None
    return text if isinstance(text, str) and len(found) == 1 else arguments
