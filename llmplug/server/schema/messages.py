"""The conversation of a chat request, checked and made plain for chat templates."""

from __future__ import annotations

from typing import Any

from llmplug.errors import InvalidRequest, UnsupportedParameter
from llmplug.server.schema.tools import MAX_DEPTH, is_deeper

# `developer` is OpenAI's newer word for `system`; templates know the older one.
_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",  # deprecated by OpenAI, as `function_call`
}
_UNSERVED_FIELDS = ("audio",)
_OWNERS = {"tool_calls": "assistant", "function_call": "assistant", "tool_call_id": "tool"}
# Thinking of an earlier answer goes by either name in requests, as it does in replies.
_REASONING = ("reasoning_content", "reasoning")
_KNOWN = frozenset(
    {"role", "content", "name", *_OWNERS, *_UNSERVED_FIELDS, *_REASONING}
    # What replies hold besides, and clients send back as it came.
    | {"refusal", "annotations"}
)
_KNOWN_IN_CALLS = frozenset({"id", "type", "function", "index"})
_TEXT_PARTS = frozenset({"text", "input_text", "output_text"})

# Each is worth many steps, of a loop that others wait for: OpenAI takes 2048 messages.
MAX_MESSAGES = 8192
MAX_PARTS = 32768  # parts of content, and calls, of all messages

Message = dict[str, Any]


def read_messages(raw: Any) -> tuple[list[Message], list[str]]:
    """Check a conversation.

    Returns:
        Messages whose content is text or text parts, and the names of fields that nobody knows.

    Raises:
        InvalidRequest: it is no list of messages, or a tool answers a call that was not made;
            `param` says which message, and where in it.
        UnsupportedParameter: it holds images or audio.
    """
    if not isinstance(raw, list):
        raise _invalid("messages", "a list of messages", code="invalid_type")
    if not raw:
        raise _refuse("messages", "must hold at least one message")
    if len(raw) > MAX_MESSAGES:
        raise _refuse("messages", f"may hold {MAX_MESSAGES} messages, not {len(raw)}")
    reader = _Reader()
    messages = [reader.read(each, f"messages[{i}]") for i, each in enumerate(raw)]
    return messages, reader.ignored


class _Reader:
    """Reads messages in turn, and remembers the calls that they may answer."""

    def __init__(self) -> None:
        self.ignored: list[str] = []
        self._call_ids: set[str] = set()
        self._function_ids: dict[str, str] = {}  # by name, of the last `function_call` of each
        self._num_functions = 0
        self._num_parts = 0

    def read(self, raw: Any, where: str) -> Message:
        if not isinstance(raw, dict):
            raise _invalid(where, "an object", code="invalid_type")
        role = _read_role(raw, where)
        for unserved in _UNSERVED_FIELDS:
            if raw.get(unserved):
                raise UnsupportedParameter(
                    f"'{where}.{unserved}' is not supported.", param=f"{where}.{unserved}"
                )
        for place, owner in _OWNERS.items():
            if raw.get(place) and role != owner:
                raise _refuse(f"{where}.{place}", f"belongs in messages of role {owner!r}")
        message: Message = {"role": role}
        needs_content = True
        if role == "assistant":
            message |= self._read_answer(raw, where)
            needs_content = len(message) == 1
        elif raw["role"] == "function":
            message["tool_call_id"] = self._read_function_name(raw, where)
            message["content"] = ""  # which may be null
            needs_content = False
        elif role == "tool":
            message["tool_call_id"] = self._read_call_id(raw, where)
        self._count(raw.get("content"), f"{where}.content")
        content = _read_content(raw, where)
        if content is not None:
            message["content"] = content
        elif needs_content:
            raise _missing(f"{where}.content")
        name = _read_text(raw, "name", where)
        if name is not None:
            message["name"] = name
        self.ignored += [f"{where}.{key}" for key in raw if key not in _KNOWN]
        return message

    def _read_answer(self, raw: dict[str, Any], where: str) -> Message:
        """Read what an assistant's message holds beside its content."""
        found: Message = {}
        texts = [_read_text(raw, name, where) for name in _REASONING]
        reasoning = next((text for text in texts if text), None)
        if reasoning is not None:
            found["reasoning_content"] = reasoning
        calls = raw.get("tool_calls")
        if calls is not None and not isinstance(calls, list):
            raise _invalid(f"{where}.tool_calls", "a list of calls", code="invalid_type")
        self._count(calls, f"{where}.tool_calls")
        if calls:
            found["tool_calls"] = [
                self._read_call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls)
            ]
        if raw.get("function_call") is not None:
            if calls:
                raise _refuse(f"{where}.function_call", "does not go with 'tool_calls'")
            found["tool_calls"] = [
                self._read_function_call(raw["function_call"], f"{where}.function_call")
            ]
        return found

    def _read_function_call(self, raw: Any, where: str) -> dict[str, Any]:
        """Read the call of a function as that of a tool, which has an id."""
        function = self._read_function(raw, where)
        self._num_functions += 1
        call_id = f"call{self._num_functions:05}"  # nine characters: some templates insist
        self._function_ids[function["name"]] = call_id
        return {"id": call_id, "type": "function", "function": function}

    def _read_function_name(self, raw: dict[str, Any], where: str) -> str:
        """Return the id of the call that a function's message answers."""
        name = _require_text(raw, "name", where)
        if name not in self._function_ids:
            raise _refuse(
                f"{where}.name", f"is {name[:100]!r}, and no 'function_call' before it has it"
            )
        return self._function_ids[name]

    def _count(self, parts: Any, where: str) -> None:
        """Refuse more parts than all messages together may have."""
        self._num_parts += len(parts) if isinstance(parts, list) else 0
        if self._num_parts > MAX_PARTS:
            raise _refuse(where, f"makes more than {MAX_PARTS} parts of content and calls")

    def _read_call(self, raw: Any, where: str) -> dict[str, Any]:
        if not isinstance(raw, dict):
            raise _invalid(where, "an object", code="invalid_type")
        if raw.get("type", "function") != "function":
            raise UnsupportedParameter(
                f"'{where}.type': only calls of type 'function' are supported.",
                param=f"{where}.type",
            )
        call_id = _require_text(raw, "id", where)
        shown = self._read_function(raw.get("function"), f"{where}.function")
        self._call_ids.add(call_id)
        self.ignored += [f"{where}.{key}" for key in raw if key not in _KNOWN_IN_CALLS]
        return {"id": call_id, "type": "function", "function": shown}

    def _read_function(self, raw: Any, where: str) -> dict[str, Any]:
        if not isinstance(raw, dict):
            raise _invalid(where, "an object", code="invalid_type")
        name = _require_text(raw, "name", where)
        arguments = raw.get("arguments")
        if arguments is not None and not isinstance(arguments, str | dict):
            raise _invalid(f"{where}.arguments", "JSON text or an object", code="invalid_type")
        if is_deeper(arguments, MAX_DEPTH):
            raise _refuse(f"{where}.arguments", f"is nested over {MAX_DEPTH} deep")
        return {"name": name, "arguments": {} if arguments in (None, "") else arguments}

    def _read_call_id(self, raw: dict[str, Any], where: str) -> str:
        call_id = _require_text(raw, "tool_call_id", where)
        if call_id not in self._call_ids:
            raise _refuse(
                f"{where}.tool_call_id",
                f"is {call_id[:100]!r}, which is the id of no tool call before it",
            )
        return call_id


def _read_role(raw: dict[str, Any], where: str) -> str:
    role = raw.get("role")
    if role is None:
        raise _missing(f"{where}.role")
    if not isinstance(role, str) or role not in _ROLES:
        raise _invalid(f"{where}.role", f"one of {', '.join(_ROLES)}")
    return _ROLES[role]


def _read_content(raw: dict[str, Any], where: str) -> str | list[dict[str, Any]] | None:
    content = raw.get("content")
    path = f"{where}.content"
    if content is None:
        refusal = raw.get("refusal")
        return refusal if isinstance(refusal, str) else None
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise _invalid(path, "a string or a list of parts", code="invalid_type")
    return [
        {"type": "text", "text": _read_part(part, f"{path}[{i}]")} for i, part in enumerate(content)
    ]


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


def _read_text(raw: dict[str, Any], name: str, where: str) -> str | None:
    value = raw.get(name)
    if value is not None and not isinstance(value, str):
        raise _invalid(f"{where}.{name}", "a string", code="invalid_type")
    return value


def _require_text(raw: dict[str, Any], name: str, where: str) -> str:
    text = _read_text(raw, name, where)
    if not text:
        raise _missing(f"{where}.{name}")
    return text


def _missing(param: str) -> InvalidRequest:
    return InvalidRequest(f"'{param}' is required.", param=param, code="missing_required_parameter")


def _invalid(param: str, wanted: str, code: str = "invalid_value") -> InvalidRequest:
    return InvalidRequest(f"'{param}' must be {wanted}.", param=param, code=code)


def _refuse(param: str, reason: str) -> InvalidRequest:
    return InvalidRequest(f"'{param}' {reason}.", param=param)
