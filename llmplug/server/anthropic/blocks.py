"""Messages made of blocks -> the messages of a chat.

A tool's result is a block of the user's message there and a message of its own here; calls and
thinking are blocks there and fields here.
"""

from __future__ import annotations

import json
from typing import Any

from llmplug.errors import InvalidRequest, UnsupportedParameter

Block = dict[str, Any]

_ROLES = ("user", "assistant", "system")
_UNSERVED = ("image", "document", "search_result", "container_upload")
# A field of every block that asks for what happens anyway: prefixes are cached.
_HARMLESS = frozenset({"cache_control", "citations"})


def write_messages(system: Any, messages: Any) -> list[dict[str, Any]]:
    """Write a conversation as chats have it, to be checked by `read_messages`.

    Raises:
        InvalidRequest: it is not made as it should be; the message says where.
        UnsupportedParameter: it holds images, documents or the like.
    """
    if not isinstance(messages, list) or not messages:
        raise _invalid("messages", "a list of at least one message")
    written: list[dict[str, Any]] = []
    if system:
        written.append({"role": "system", "content": _read_text(system, "system")})
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        if not isinstance(message, dict):
            raise _invalid(where, "an object")
        role = message.get("role")
        if role not in _ROLES:
            raise _invalid(f"{where}.role", f"one of {', '.join(_ROLES)}")
        content = _read_blocks(message.get("content"), f"{where}.content")
        if role == "assistant":
            written.append(_write_answer(content, f"{where}.content"))
        else:
            written += _write_turn(role, content, f"{where}.content")
    return written


def continues_answer(messages: Any) -> bool:
    """Whether the model is to go on with the last message, which is its own."""
    last = messages[-1] if isinstance(messages, list) and messages else None
    return isinstance(last, dict) and last.get("role") == "assistant"


def _write_turn(role: str, content: list[Block], where: str) -> list[dict[str, Any]]:
    """A user's blocks in their order: results become messages, texts between them another."""
    written: list[dict[str, Any]] = []
    texts: list[Block] = []

    def end_text() -> None:
        if texts:
            written.append({"role": role, "content": _join(texts)})
            texts.clear()

    for i, block in enumerate(content):
        place = f"{where}[{i}]"
        if block["type"] == "text":
            texts.append(_write_text(block, place))
        elif block["type"] == "tool_result" and role == "user":
            end_text()
            written.append(_write_result(block, place))
        else:
            raise _refuse_block(block["type"], role, place)
    end_text()
    return written or [{"role": role, "content": ""}]


def _write_answer(content: list[Block], where: str) -> dict[str, Any]:
    texts: list[Block] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for i, block in enumerate(content):
        place = f"{where}[{i}]"
        if block["type"] == "text":
            texts.append(_write_text(block, place))
        elif block["type"] == "thinking":
            thoughts.append(_read_string(block.get("thinking"), f"{place}.thinking"))
        elif block["type"] == "tool_use":
            calls.append(_write_call(block, place))
        elif block["type"] != "redacted_thinking":  # sealed by another server: nobody can read it
            raise _refuse_block(block["type"], "assistant", place)
    message: dict[str, Any] = {"role": "assistant"}
    if texts or not calls:
        message["content"] = _join(texts)
    if thoughts:
        message["reasoning_content"] = "".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return message


def _write_call(block: Block, where: str) -> dict[str, Any]:
    arguments = block.get("input", {})
    if not isinstance(arguments, dict):
        raise _invalid(f"{where}.input", "an object")
    return {
        "id": _read_string(block.get("id"), f"{where}.id"),
        "type": "function",
        "function": {
            "name": _read_string(block.get("name"), f"{where}.name"),
            "arguments": json.dumps(arguments, ensure_ascii=False),
        },
    }


def _write_result(block: Block, where: str) -> dict[str, Any]:
    text = _read_text(block.get("content") or "", f"{where}.content")
    if block.get("is_error"):
        # Templates know results, not failures: the model reads it in the text.
        text = f"Error: {text}"
    return {
        "role": "tool",
        "tool_call_id": _read_string(block.get("tool_use_id"), f"{where}.tool_use_id"),
        "content": text,
    }


def _read_blocks(content: Any, where: str) -> list[Block]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise _invalid(where, "a string or a list of blocks")
    for i, block in enumerate(content):
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise _invalid(f"{where}[{i}]", "a block with a type")
    return content


def _read_text(content: Any, where: str) -> str:
    """Read a string, or blocks of text alone."""
    blocks = _read_blocks(content, where)
    for i, block in enumerate(blocks):
        if block["type"] != "text":
            raise _refuse_block(block["type"], "text", f"{where}[{i}]")
    return "\n".join(
        _read_string(block.get("text"), f"{where}[{i}].text") for i, block in enumerate(blocks)
    )


def _write_text(block: Block, where: str) -> Block:
    unknown = sorted(block.keys() - {"type", "text"} - _HARMLESS)
    if unknown:
        raise _invalid(f"{where}.{unknown[0]}", "left out: it is no field of a text block")
    return {"type": "text", "text": _read_string(block.get("text"), f"{where}.text")}


def _join(texts: list[Block]) -> Any:
    """A single text stands as a string, which every template takes."""
    if len(texts) == 1:
        return texts[0]["text"]
    return list(texts) if texts else ""


def _read_string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _invalid(where, "a string")
    return value


def _refuse_block(kind: str, role: str, where: str) -> InvalidRequest:
    if kind in _UNSERVED:
        return UnsupportedParameter(
            f"'{where}' is of type {kind!r}, which is not supported: models read text here.",
            param=where,
        )
    return InvalidRequest(
        f"'{where}' is of type {kind[:64]!r}, which does not belong in {role} content.", param=where
    )


def _invalid(where: str, expected: str) -> InvalidRequest:
    return InvalidRequest(f"'{where}' must be {expected}.", param=where, code="invalid_type")
