"""Items -> the messages of a chat: thinking, text and calls of one turn are one message there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from llmplug.errors import InvalidRequest
from llmplug.server.responses.compaction import COMPACTION, write_summary
from llmplug.server.schema.responses_tools import CUSTOM_FIELD

if TYPE_CHECKING:
    from llmplug.server.responses.input_items import Item
    from llmplug.server.schema.messages import Message


def write_messages(instructions: str | None, items: Sequence[Item], num_old: int) -> list[Message]:
    """Turn a conversation into messages.

    Args:
        instructions: come before all of it.
        items: without references; what came before this request first.
        num_old: of the items that came before: places in errors are of the request.
    Raises:
        InvalidRequest: a tool answers a call that was not made.
    """
    turn = _Turn()
    call_ids: set[str] = set()
    messages: list[Message] = []
    if instructions:
        messages.append({"role": "system", "content": instructions})
    for i, item in enumerate(items):
        if turn.takes(item):
            turn.add(item)
            call_ids.add(item.get("call_id", ""))
            continue
        messages += turn.close()
        if turn.takes(item):
            turn.add(item)
            continue
        if item["type"] == COMPACTION:
            messages.append({"role": "assistant", "content": write_summary(item)})
            continue
        if item["type"] == "message":
            messages.append(_write_message(item))
            continue
        if item["call_id"] not in call_ids:
            param = f"input[{max(i - num_old, 0)}].call_id"
            raise InvalidRequest(
                f"'{param}' is {item['call_id'][:100]!r}, which is the id of no tool call before "
                "it.",
                param=param,
            )
        messages.append(
            {"role": "tool", "tool_call_id": item["call_id"], "content": _text_of(item["output"])}
        )
    messages += turn.close()
    return _join_instructions(messages)


class _Turn:
    """What the model says in one go: thinking, then text, then calls."""

    def __init__(self) -> None:
        self._reasonings: list[str] = []
        self._texts: list[str] = []
        self._calls: list[dict[str, Any]] = []

    def takes(self, item: Item) -> bool:
        """Whether an item goes on with it."""
        kind = item["type"]
        if kind == "reasoning":
            return not (self._texts or self._calls)
        if kind == "message":
            return item["role"] == "assistant" and not (self._texts or self._calls)
        return kind in {"function_call", "custom_tool_call"}

    def add(self, item: Item) -> None:
        if item["type"] == "reasoning":
            parts = item["content"] or item["summary"]
            self._reasonings.append("".join(part["text"] for part in parts))
        elif item["type"] == "message":
            self._texts.append(_text_of(item["content"]))
        else:
            self._calls.append(_write_call(item))

    def close(self) -> Iterator[Message]:
        """Its message, if there is anything in it; the next one is empty."""
        message: Message = {"role": "assistant"}
        if any(self._reasonings):
            message["reasoning_content"] = "".join(self._reasonings)
        if self._calls:
            message["tool_calls"] = self._calls
        if self._texts or (self._reasonings and not self._calls):
            message["content"] = "".join(self._texts)
        if len(message) > 1:
            yield message
        self._reasonings, self._texts, self._calls = [], [], []


def _write_call(item: Item) -> dict[str, Any]:
    if item["type"] == "custom_tool_call":
        arguments: Any = {CUSTOM_FIELD: item["input"]}
    else:
        arguments = item["arguments"] or {}
    shown = {"name": item["name"], "arguments": arguments}
    return {"id": item["call_id"], "type": "function", "function": shown}


def _write_message(item: Item) -> Message:
    role = "system" if item["role"] == "developer" else item["role"]
    return {"role": role, "content": _text_of(item["content"])}


def _text_of(content: str | Sequence[Item]) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def _join_instructions(messages: list[Message]) -> list[Message]:
    """Make one of the system messages at the start: templates have a place for one."""
    count = next((i for i, each in enumerate(messages) if each["role"] != "system"), len(messages))
    if count < 2:
        return messages
    joined = "\n\n".join(each["content"] for each in messages[:count])
    return [{"role": "system", "content": joined}, *messages[count:]]
