"""The conversation of a chat request, checked and made plain for chat templates."""

from __future__ import annotations

from typing import Any

from llmplug.errors import InvalidRequest, UnsupportedParameter

# `developer` is OpenAI's newer word for `system`; templates know the older one.
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_UNSERVED_ROLES = frozenset({"tool", "function"})
_UNSERVED_FIELDS = ("tool_calls", "function_call", "tool_call_id", "audio")
_PASSED_ON = ("name", "reasoning_content")
_KNOWN = frozenset({"role", "content", "refusal", *_UNSERVED_FIELDS, *_PASSED_ON})
_TEXT_PARTS = frozenset({"text", "input_text", "output_text"})

Message = dict[str, Any]


def read_messages(raw: Any) -> tuple[list[Message], list[str]]:
    """Check a conversation.

    Returns:
        Messages whose content is text, and the names of fields that nobody knows.

    Raises:
        InvalidRequest: it is no list of messages; `param` says which one, and where in it.
        UnsupportedParameter: it holds images, audio or tool calls.
    """
    if not isinstance(raw, list):
        raise _invalid("messages", "a list of messages", code="invalid_type")
    if not raw:
        raise InvalidRequest("'messages' must hold at least one message.", param="messages")
    ignored: list[str] = []
    messages = [_read_message(each, f"messages[{i}]", ignored) for i, each in enumerate(raw)]
    return messages, ignored


def _read_message(raw: Any, where: str, ignored: list[str]) -> Message:
    if not isinstance(raw, dict):
        raise _invalid(where, "an object", code="invalid_type")
    role = _read_role(raw, where)
    for name in _UNSERVED_FIELDS:
        if raw.get(name):
            raise UnsupportedParameter(
                f"'{where}.{name}' is not supported.", param=f"{where}.{name}"
            )
    message: Message = {"role": role, "content": _read_content(raw, role, where)}
    for name in _PASSED_ON:
        value = raw.get(name)
        if value is None:
            continue
        if not isinstance(value, str):
            raise _invalid(f"{where}.{name}", "a string", code="invalid_type")
        message[name] = value
    ignored += [f"{where}.{name}" for name in raw if name not in _KNOWN]
    return message


def _read_role(raw: dict[str, Any], where: str) -> str:
    role = raw.get("role")
    if role is None:
        raise InvalidRequest(
            f"'{where}.role' is required.",
            param=f"{where}.role",
            code="missing_required_parameter",
        )
    if isinstance(role, str) and role in _UNSERVED_ROLES:
        raise UnsupportedParameter(
            f"'{where}.role': messages of tools are not supported.", param=f"{where}.role"
        )
    if not isinstance(role, str) or role not in _ROLES:
        raise _invalid(f"{where}.role", f"one of {', '.join(_ROLES)}")
    return _ROLES[role]


def _read_content(raw: dict[str, Any], role: str, where: str) -> str:
    content = raw.get("content")
    path = f"{where}.content"
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(_read_part(part, f"{path}[{i}]") for i, part in enumerate(content))
    if content is not None:
        raise _invalid(path, "a string or a list of parts", code="invalid_type")
    if role == "assistant":
        refusal = raw.get("refusal")
        if isinstance(refusal, str):
            return refusal
    raise InvalidRequest(f"'{path}' is required.", param=path, code="missing_required_parameter")


def _read_part(part: Any, where: str) -> str:
    if not isinstance(part, dict):
        raise _invalid(where, "an object", code="invalid_type")
    kind = part.get("type")
    key = "refusal" if kind == "refusal" else "text"
    if not isinstance(kind, str):
        raise _invalid(f"{where}.type", "a string", code="invalid_type")
    if kind != "refusal" and kind not in _TEXT_PARTS:
        raise UnsupportedParameter(
            f"'{where}': parts of type {kind[:40]!r} are not supported, only text.", param=where
        )
    text = part.get(key)
    if not isinstance(text, str):
        raise _invalid(f"{where}.{key}", "a string", code="invalid_type")
    return text


def _invalid(param: str, wanted: str, code: str = "invalid_value") -> InvalidRequest:
    return InvalidRequest(f"'{param}' must be {wanted}.", param=param, code=code)
