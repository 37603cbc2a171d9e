"""Bring OpenAI's messages into the shape that a model's chat template takes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmplug.errors import InvalidRequest, UnsupportedParameter

_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
_REASONING = ("reasoning_content", "thinking", "reasoning")  # names in use; the first is common
_SHORT_ID = re.compile("[a-zA-Z0-9]{9}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageShape:
    """What a chat template makes of messages, found out by trying."""

    takes_strings: bool = True  # content as a string
    takes_parts: bool = False  # content as a list of {"type": "text", "text": ...}
    needs_content: bool = False  # fails on messages without content
    takes_null: bool = False  # and wants null there, beside tool calls
    takes_tools: bool = False
    takes_tool_calls: bool = False
    takes_argument_maps: bool = True  # arguments of tool calls as a map, not as JSON text
    wants_short_ids: bool = False  # ids of tool calls are nine letters and digits


def shape_messages(
    messages: Sequence[Mapping[str, Any]], shape: MessageShape
) -> list[dict[str, Any]]:
    """Check messages and copy them in the shape that the template takes; nulls are left out.

    Raises:
        InvalidRequest: a message is malformed; `param` is its place, `messages[0].content`.
        UnsupportedParameter: the template cannot show what a message holds.
    """
    if not messages:
        raise InvalidRequest("there must be at least one message", param="messages")
    shaped = [
        _shape_message(message, f"messages[{i}]", shape) for i, message in enumerate(messages)
    ]
    _name_results(shaped)
    return shaped


def _name_results(messages: Sequence[dict[str, Any]]) -> None:
    """Say in tool results whose they are, as some templates show names and no ids."""
    names: dict[Any, Any] = {}
    for message in messages:
        for call in message.get("tool_calls", ()):
            names[call.get("id")] = call["function"].get("name")
        name = names.get(message.get("tool_call_id"))
        if message["role"] == "tool" and isinstance(name, str):
            message.setdefault("name", name)


def _shorten(call_id: Any) -> Any:
    """Make any id one of nine letters and digits: equal ones stay equal."""
    if not isinstance(call_id, str) or _SHORT_ID.fullmatch(call_id):
        return call_id
    return hashlib.blake2b(call_id.encode("utf-8", "surrogatepass")).hexdigest()[:9]


def _shape_message(message: Mapping[str, Any], place: str, shape: MessageShape) -> dict[str, Any]:
    shaped = {key: value for key, value in message.items() if value is not None}
    role = shaped.get("role")
    if not isinstance(role, str) or not role:
        raise InvalidRequest("a message needs a role", param=f"{place}.role")
    if "tool_calls" in shaped:
        shaped["tool_calls"] = _shape_tool_calls(shaped["tool_calls"], place, shape)
    reasoning = next((shaped[name] for name in _REASONING if name in shaped), None)
    if reasoning is not None:
        shaped = {"thinking": reasoning, **shaped, "reasoning_content": reasoning}
    if shape.wants_short_ids and "tool_call_id" in shaped:
        shaped["tool_call_id"] = _shorten(shaped["tool_call_id"])
    if shape.takes_null and shaped.get("tool_calls") and not shaped.get("content"):
        shaped["content"] = None  # beside an empty text some show no calls
    elif "content" in shaped:
        shaped["content"] = _shape_content(shaped["content"], f"{place}.content", shape)
    elif not shaped.get("tool_calls") and reasoning is None:
        raise InvalidRequest(f"a message of role {role!r} needs content", param=f"{place}.content")
    elif shape.needs_content:
        shaped["content"] = _shape_content("", f"{place}.content", shape)
    return shaped


def _shape_content(content: object, place: str, shape: MessageShape) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content if shape.takes_strings else [{"type": "text", "text": content}]
    if not isinstance(content, list | tuple):
        raise InvalidRequest("content must be a string or a list of parts", param=place)
    texts = [_text_of(part, f"{place}[{j}]") for j, part in enumerate(content)]
    if shape.takes_parts:
        return [{"type": "text", "text": text} for text in texts]
    return "\n".join(texts)


def _text_of(part: object, place: str) -> str:
    if not isinstance(part, Mapping):
        raise InvalidRequest("a part of content must be an object", param=place)
    kind = part.get("type")
    key = _TEXT_PARTS.get(kind) if isinstance(kind, str) else None
    if key is None:
        raise InvalidRequest(
            f"this model takes text only, not content of type {str(kind)[:50]!r}", param=place
        )
    text = part.get(key)
    if not isinstance(text, str):
        raise InvalidRequest(f"a part of type {kind!r} needs a string", param=f"{place}.{key}")
    return text


def _shape_tool_calls(calls: object, place: str, shape: MessageShape) -> list[Any]:
    if not isinstance(calls, list | tuple):
        raise InvalidRequest("tool_calls must be a list", param=f"{place}.tool_calls")
    if calls and not shape.takes_tool_calls:
        raise UnsupportedParameter(
            "the chat template of this model has no place for tool calls",
            param=f"{place}.tool_calls",
        )
    return [
        _shape_tool_call(call, f"{place}.tool_calls[{j}]", shape) for j, call in enumerate(calls)
    ]


def _shape_tool_call(call: object, place: str, shape: MessageShape) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        raise InvalidRequest("a tool call needs a function", param=f"{place}.function")
    arguments = function.get("arguments") or "{}"
    if isinstance(arguments, str) and shape.takes_argument_maps:
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(
                f"arguments are no JSON: {error}", param=f"{place}.function.arguments"
            ) from error
    elif not isinstance(arguments, str) and not shape.takes_argument_maps:
        arguments = json.dumps(arguments, ensure_ascii=False)
    shaped = {**call, "function": {**function, "arguments": arguments}}
    if shape.wants_short_ids and "id" in shaped:
        shaped["id"] = _shorten(shaped["id"])
    return shaped
