"""The tools of a Responses request: flat where those of chats are nested, and of two kinds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from llmplug.errors import InvalidRequest, UnsupportedParameter

# A custom tool takes any text. Models know functions only, so it is shown as one with one string.
CUSTOM_FIELD = "input"
_CUSTOM_PARAMETERS = {
    "type": "object",
    "properties": {CUSTOM_FIELD: {"type": "string"}},
    "required": [CUSTOM_FIELD],
}
_FUNCTION_FIELDS = ("name", "description", "parameters", "strict")
_KNOWN = frozenset({"type", "format", *_FUNCTION_FIELDS})


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseTools:
    """What a request says about tools.

    Attributes:
        chat: the same tools as a chat request has them; they are not checked yet.
        chat_choice: `tool_choice` as a chat request has it.
        shown: as the response repeats them.
        choice: `tool_choice` as the response repeats it.
        custom: names of tools that take any text.
        ignored: names of fields that say something that is not read.
    """

    chat: Any = None
    chat_choice: Any = None
    shown: list[dict[str, Any]] = field(default_factory=list)
    choice: Any = "auto"
    custom: frozenset[str] = frozenset()
    ignored: tuple[str, ...] = ()


def read_response_tools(tools: Any, choice: Any) -> ResponseTools:
    """Read `tools` and `tool_choice`; what chats check of them is left to chats.

    Raises:
        InvalidRequest: one is malformed.
        UnsupportedParameter: a tool is one that a server would have to run.
    """
    if tools is not None and not isinstance(tools, list):
        raise _invalid("tools", "a list of tools")
    chat, shown, custom, ignored = [], [], set(), []
    for i, tool in enumerate(tools or ()):
        where = f"tools[{i}]"
        if not isinstance(tool, dict):
            raise _invalid(where, "an object")
        if tool.get("type") == "custom":
            _check_custom(tool, where)
            custom.add(tool.get("name"))
        elif tool.get("type") != "function":
            raise _refuse_kind(tool.get("type"), f"{where}.type")
        ignored += [f"{where}.{key}" for key in tool if key not in _KNOWN and tool[key]]
        chat.append(_to_chat(tool))
        shown.append(_show(tool))
    return ResponseTools(
        chat=chat or None,
        chat_choice=_read_choice(choice),
        shown=shown,
        choice="auto" if choice is None else choice,
        custom=frozenset(name for name in custom if isinstance(name, str)),
        ignored=tuple(ignored),
    )


def _to_chat(tool: dict[str, Any]) -> dict[str, Any]:
    function = {key: tool[key] for key in _FUNCTION_FIELDS if tool.get(key) is not None}
    if tool["type"] == "custom":
        function["parameters"] = _CUSTOM_PARAMETERS
    return {"type": "function", "function": function}


def _show(tool: dict[str, Any]) -> dict[str, Any]:
    """As the response repeats it: what was not said is said."""
    if tool["type"] == "custom":
        known = {key: tool[key] for key in ("name", "description") if tool.get(key) is not None}
        return {"type": "custom", **known, "format": {"type": "text"}}
    return {
        "type": "function",
        "name": tool.get("name"),
        "description": tool.get("description"),
        "parameters": tool.get("parameters"),
        "strict": bool(tool.get("strict")),
    }


def _check_custom(tool: dict[str, Any], where: str) -> None:
    form = tool.get("format")
    if form is not None and form != {"type": "text"}:
        raise UnsupportedParameter(
            f"'{where}.format': custom tools take any text; a grammar of theirs is not supported.",
            param=f"{where}.format",
        )


def _read_choice(choice: Any) -> Any:
    """Nest `tool_choice` as chats have it."""
    if not isinstance(choice, dict):
        return choice
    kind = choice.get("type")
    if kind in {"function", "custom"}:
        return _name(choice)
    if kind == "allowed_tools":
        tools = choice.get("tools")
        named = [_name(each) for each in tools] if isinstance(tools, list) else tools
        return {"type": kind, "allowed_tools": {"mode": choice.get("mode"), "tools": named}}
    raise _refuse_kind(kind, "tool_choice.type")


def _name(choice: Any) -> Any:
    if not isinstance(choice, dict):
        return choice
    return {"type": "function", "function": {"name": choice.get("name")}}


def _refuse_kind(kind: Any, param: str) -> InvalidRequest:
    if not isinstance(kind, str):
        return _invalid(param, "a string")
    return UnsupportedParameter(
        f"'{param}' {kind[:40]!r} is not supported: this server runs no tools of its own; tools "
        "are of type 'function' or 'custom', and clients run them.",
        param=param,
    )


def _invalid(param: str, wanted: str) -> InvalidRequest:
    return InvalidRequest(f"'{param}' must be {wanted}.", param=param, code="invalid_type")
