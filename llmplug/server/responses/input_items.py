"""What a request says -> items, checked, whole and with ids: as they are kept and listed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llmplug.errors import InvalidRequest, UnsupportedParameter
from llmplug.server.responses.compaction import COMPACTION, open_summary
from llmplug.server.schema.responses_reply import make_id

Item = dict[str, Any]

REFERENCE = "item_reference"
_ROLES = ("user", "assistant", "system", "developer")
_STATUSES = ("in_progress", "completed", "incomplete")
_TEXT_PARTS = frozenset({"input_text", "output_text", "text"})
_MAX_ID_CHARS = 128


def read_items(raw: Any, param: str = "input") -> tuple[list[Item], list[str]]:
    """Check the items of a request, which are its field `param`.

    Returns:
        Items, references among them, and the names of fields that say something that is not read.

    Raises:
        InvalidRequest: it is no text and no list of items; `param` says which, and where in it.
        UnsupportedParameter: an item or a part is of a kind that is not served.
    """
    if isinstance(raw, str):
        return [_make_message("user", [raw], make_id("msg"))], []
    if not isinstance(raw, list):
        raise _invalid(param, "a string or a list of items")
    reader = _Reader()
    items = [reader.read(each, f"{param}[{i}]") for i, each in enumerate(raw)]
    return items, reader.ignored


def write_listed(item: Item) -> Item:
    """An item as lists have it: calls of custom tools have a status there, which answers lack."""
    return item if item["type"] == COMPACTION else {"status": "completed", **item}


def renew_id(item: Item) -> Item:
    """The same item by another id."""
    return {**item, "id": make_id(_PREFIXES[item["type"]])}


class _Reader:
    """Reads items in turn; no two get the same id."""

    def __init__(self) -> None:
        self.ignored: list[str] = []
        self._ids: set[str] = set()

    def read(self, raw: Any, where: str) -> Item:
        if not isinstance(raw, dict):
            raise _invalid(where, "an object")
        kind = raw.get("type")
        if kind is None:
            kind = "message" if "role" in raw else REFERENCE if "id" in raw else None
        if not isinstance(kind, str):
            raise _invalid(f"{where}.type", "a string")
        if kind not in _READERS:
            raise UnsupportedParameter(
                f"'{where}': items of type {kind[:40]!r} are not supported.", param=where
            )
        item, known = _READERS[kind](raw, where)
        item = {"id": item["id"] if kind == REFERENCE else self._choose_id(raw, kind), **item}
        always = {"type", "id", "status", "phase", "annotations", "namespace", "caller"}
        self.ignored += [
            f"{where}.{key}" for key, value in raw.items() if key not in known | always and value
        ]
        return item

    def _choose_id(self, raw: Mapping[str, Any], kind: str) -> str:
        """The item's own id, if it is one; else a new one."""
        given = raw.get("id")
        is_fit = isinstance(given, str) and 0 < len(given) <= _MAX_ID_CHARS
        item_id = str(given) if is_fit and given not in self._ids else make_id(_PREFIXES[kind])
        self._ids.add(item_id)
        return item_id


def _read_message(raw: Mapping[str, Any], where: str) -> tuple[Item, set[str]]:
    role = raw.get("role")
    if role not in _ROLES:
        raise InvalidRequest(
            f"'{where}.role' must be one of {', '.join(_ROLES)}.", param=f"{where}.role"
        )
    texts = _read_texts(raw.get("content"), f"{where}.content")
    item = _make_message(role, texts, "", _read_status(raw, where))
    if role == "assistant" and raw.get("phase") in {"commentary", "final_answer"}:
        item["phase"] = raw["phase"]
    del item["id"]
    return item, {"role", "content"}


def _make_message(role: str, texts: list[str], item_id: str, status: str = "completed") -> Item:
    parts: list[Item] = [
        {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        if role == "assistant"
        else {"type": "input_text", "text": text}
        for text in texts
    ]
    return {"id": item_id, "type": "message", "status": status, "role": role, "content": parts}


def _read_call(raw: Mapping[str, Any], where: str) -> tuple[Item, set[str]]:
    return {
        "type": "function_call",
        "status": _read_status(raw, where),
        "call_id": _read_text(raw, "call_id", where),
        "name": _read_text(raw, "name", where),
        "arguments": _read_text(raw, "arguments", where, may_be_empty=True),
    }, {"call_id", "name", "arguments"}


def _read_output(raw: Mapping[str, Any], where: str) -> tuple[Item, set[str]]:
    output = raw.get("output")
    texts = _read_texts(output, f"{where}.output")
    return {
        "type": str(raw["type"]),
        "status": _read_status(raw, where),
        "call_id": _read_text(raw, "call_id", where),
        "output": output
        if isinstance(output, str)
        else [{"type": "input_text", "text": text} for text in texts],
    }, {"call_id", "output", "name"}


def _read_custom_call(raw: Mapping[str, Any], where: str) -> tuple[Item, set[str]]:
    return {
        "type": "custom_tool_call",
        "status": _read_status(raw, where),
        "call_id": _read_text(raw, "call_id", where),
        "name": _read_text(raw, "name", where),
        "input": _read_text(raw, "input", where, may_be_empty=True),
    }, {"call_id", "name", "input"}


def _read_reasoning(raw: Mapping[str, Any], where: str) -> tuple[Item, set[str]]:
    summary = _read_parts(raw.get("summary"), "summary_text", f"{where}.summary")
    content = _read_parts(raw.get("content"), "reasoning_text", f"{where}.content")
    return {
        "type": "reasoning",
        "status": _read_status(raw, where),
        "summary": summary,
        "content": content,
    }, {"summary", "content"}


def _read_compaction(raw: Mapping[str, Any], where: str) -> tuple[Item, set[str]]:
    sealed = _read_text(raw, "encrypted_content", where)
    if open_summary(sealed) is None:
        param = f"{where}.encrypted_content"
        raise InvalidRequest(
            f"'{param}' was not made by this server's /v1/responses/compact.", param=param
        )
    return {"type": COMPACTION, "encrypted_content": sealed}, {"encrypted_content", "created_by"}


def _read_reference(raw: Mapping[str, Any], where: str) -> tuple[Item, set[str]]:
    return {"type": REFERENCE, "id": _read_text(raw, "id", where)}, set()


_READERS: Mapping[str, Callable[[Mapping[str, Any], str], tuple[Item, set[str]]]] = {
    "message": _read_message,
    "function_call": _read_call,
    "function_call_output": _read_output,
    "custom_tool_call": _read_custom_call,
    "custom_tool_call_output": _read_output,
    "reasoning": _read_reasoning,
    COMPACTION: _read_compaction,
    REFERENCE: _read_reference,
}
_PREFIXES = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "reasoning": "rs",
    COMPACTION: "cmp",
}


def _read_status(raw: Mapping[str, Any], where: str) -> str:
    status = raw.get("status")
    if status is not None and status not in _STATUSES:
        raise InvalidRequest(
            f"'{where}.status' must be one of {', '.join(_STATUSES)}.", param=f"{where}.status"
        )
    return status or "completed"


def _read_texts(content: Any, where: str) -> list[str]:
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list):
        raise _invalid(where, "a string or a list of parts")
    return [_read_part(part, f"{where}[{i}]") for i, part in enumerate(content)]


def _read_part(part: Any, where: str) -> str:
    if not isinstance(part, dict):
        raise _invalid(where, "an object")
    kind = part.get("type")
    if not isinstance(kind, str):
        raise _invalid(f"{where}.type", "a string")
    if kind == "refusal":
        return _read_text(part, "refusal", where, may_be_empty=True)
    if kind not in _TEXT_PARTS:
        raise UnsupportedParameter(
            f"'{where}': parts of type {kind[:40]!r} are not supported, only text.", param=where
        )
    return _read_text(part, "text", where, may_be_empty=True)


def _read_parts(raw: Any, kind: str, where: str) -> list[Item]:
    if raw is not None and not isinstance(raw, list):
        raise _invalid(where, "a list of parts")
    parts = []
    for i, part in enumerate(raw or ()):
        if not isinstance(part, dict) or part.get("type") != kind:
            raise _invalid(f"{where}[{i}]", f"a part of type {kind!r}")
        parts.append(
            {"type": kind, "text": _read_text(part, "text", f"{where}[{i}]", may_be_empty=True)}
        )
    return parts


def _read_text(raw: Mapping[str, Any], name: str, where: str, *, may_be_empty: bool = False) -> str:
    value = raw.get(name)
    param = f"{where}.{name}"
    if value is None or (value == "" and not may_be_empty):
        raise InvalidRequest(
            f"'{param}' is required.", param=param, code="missing_required_parameter"
        )
    if not isinstance(value, str):
        raise _invalid(param, "a string")
    return value


def _invalid(param: str, wanted: str) -> InvalidRequest:
    return InvalidRequest(f"'{param}' must be {wanted}.", param=param, code="invalid_type")
