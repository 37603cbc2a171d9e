"""The tools of a chat request, and which of them the model may or must call."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llmplug.dialect import Tool
from llmplug.errors import InvalidRequest, UnsupportedParameter

MAX_TOOLS = 128  # OpenAI's
MAX_DEPTH = 64  # of a schema's lists and maps within each other; OpenAI allows 10
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")  # OpenAI's
_NO_PARAMETERS = {"type": "object", "properties": {}}
_MODES = ("none", "auto", "required")

ChoiceMode = Literal["none", "auto", "required", "named"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUse:
    """What a request says about tools.

    Attributes:
        shown: for the template: all of them, whatever the choice, so that the prompt and with it
            the cached prefix stay the same.
        callable: those that the model may call; none of them: the answer is not read for calls.
        mode: `named`: one function is named, and is called once.
        is_parallel: whether an answer may hold more than one call.
    """

    shown: tuple[Mapping[str, Any], ...] = ()
    callable: tuple[Tool, ...] = ()
    mode: ChoiceMode = "none"
    is_parallel: bool = True

    @property
    def least(self) -> int:
        """Calls that an answer must hold."""
        return 1 if self.mode in {"required", "named"} else 0

    @property
    def most(self) -> int | None:
        """Calls that it may hold; None: any number."""
        return None if self.is_parallel and self.mode != "named" else 1

    def index_of(self, name: str) -> int:
        """The place of a tool in the request."""
        return [each["function"]["name"] for each in self.shown].index(name)

    @property
    def needs_grammar(self) -> bool:
        """Whether only a grammar keeps the promise that was asked for."""
        is_partial = bool(self.callable) and len(self.callable) < len(self.shown)
        is_strict = any(tool.is_strict for tool in self.callable)
        return bool(self.least) or is_partial or is_strict


def read_tools(tools: Any, choice: Any, is_parallel: bool | None) -> ToolUse:
    """Check `tools`, `tool_choice` and `parallel_tool_calls`.

    Raises:
        InvalidRequest: one is malformed, or the choice names a tool that is not there.
        UnsupportedParameter: a tool is no function.
    """
    shown, known = _read_list(tools)
    mode, names = _read_choice(choice, bool(known))
    for name, param in names:
        if name not in known:
            raise InvalidRequest(
                f"'{param}' names the function {name[:64]!r}, which is not among 'tools'.",
                param=param,
            )
    allowed = {name for name, _ in names} if names else set(known)
    callable_ = () if mode == "none" else tuple(t for t in known.values() if t.name in allowed)
    return ToolUse(shown=shown, callable=callable_, mode=mode, is_parallel=is_parallel is not False)


def _read_list(raw: Any) -> tuple[tuple[Mapping[str, Any], ...], dict[str, Tool]]:
    if raw is None:
        return (), {}
    if not isinstance(raw, list):
        raise _invalid("tools", "a list of tools", code="invalid_type")
    if len(raw) > MAX_TOOLS:
        raise InvalidRequest(
            f"'tools' holds {len(raw)} tools; at most {MAX_TOOLS} are allowed.", param="tools"
        )
    shown: list[Mapping[str, Any]] = []
    known: dict[str, Tool] = {}
    for i, each in enumerate(raw):
        function, tool = _read_tool(each, f"tools[{i}]")
        if tool.name in known:
            raise InvalidRequest(
                f"'tools[{i}].function.name': the name {tool.name!r} is taken by another tool.",
                param=f"tools[{i}].function.name",
            )
        known[tool.name] = tool
        shown.append({"type": "function", "function": function})
    return tuple(shown), known


def _read_tool(raw: Any, where: str) -> tuple[dict[str, Any], Tool]:
    """Return the function as a template is shown it, and as a parser knows it."""
    if not isinstance(raw, dict):
        raise _invalid(where, "an object", code="invalid_type")
    if raw.get("type") != "function":
        raise UnsupportedParameter(
            f"'{where}.type': only tools of type 'function' are supported.", param=f"{where}.type"
        )
    function = raw.get("function")
    path = f"{where}.function"
    if not isinstance(function, dict):
        raise _invalid(path, "an object", code="invalid_type")
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _invalid(f"{path}.name", "1 to 64 letters, digits, underscores or dashes")
    description = _typed(function, "description", str, "a string", path) or ""
    is_strict = _typed(function, "strict", bool, "true or false", path) or False
    parameters = _typed(function, "parameters", dict, "a JSON schema", path) or _NO_PARAMETERS
    if is_deeper(parameters, MAX_DEPTH):
        raise InvalidRequest(
            f"'{path}.parameters' is nested over {MAX_DEPTH} deep.", param=f"{path}.parameters"
        )
    if parameters.get("type", "object") != "object":
        raise _invalid(f"{path}.parameters", "a JSON schema of type 'object'")
    shown = {key: value for key, value in function.items() if key != "strict"}
    shown["parameters"] = parameters
    tool = Tool(name, parameters, description, is_strict)
    return {key: value for key, value in shown.items() if value is not None}, tool


def is_deeper(value: Any, depth: int) -> bool:
    """Whether lists and maps stand within each other more than `depth` times."""
    level = [value]
    for _ in range(depth):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
    return any(isinstance(each, dict | list) for each in level)


def _typed(function: dict[str, Any], name: str, kind: type, wanted: str, path: str) -> Any:
    value = function.get(name)
    if value is not None and not isinstance(value, kind):
        raise _invalid(f"{path}.{name}", wanted, code="invalid_type")
    return value


def _read_choice(raw: Any, has_tools: bool) -> tuple[ChoiceMode, Sequence[tuple[str, str]]]:
    """Return the mode, and the functions that it is confined to, each with its place."""
    if raw is None:
        return ("auto" if has_tools else "none"), ()
    if isinstance(raw, str):
        mode = _read_mode(raw, "tool_choice")
        if mode == "required" and not has_tools:
            raise InvalidRequest(
                "'tool_choice' is 'required' without 'tools'.", param="tool_choice"
            )
        return (mode if has_tools else "none"), ()
    kind = raw.get("type") if isinstance(raw, dict) else None
    if kind == "function":
        return "named", [_read_name(raw, "tool_choice")]
    if kind == "allowed_tools":
        return _read_allowed(raw.get("allowed_tools"))
    if kind == "custom":
        raise UnsupportedParameter(
            "'tool_choice': only tools of type 'function' are supported.", param="tool_choice"
        )
    raise _invalid("tool_choice", "none, auto, required, a function, or allowed_tools")


def _read_allowed(raw: Any) -> tuple[ChoiceMode, Sequence[tuple[str, str]]]:
    where = "tool_choice.allowed_tools"
    if not isinstance(raw, dict):
        raise _invalid(where, "an object", code="invalid_type")
    mode = _read_mode(raw.get("mode"), f"{where}.mode")
    tools = raw.get("tools")
    if not isinstance(tools, list) or not tools:
        raise _invalid(f"{where}.tools", "a list of at least one tool")
    if mode == "none":
        raise _invalid(f"{where}.mode", "auto or required")
    return mode, [_read_name(each, f"{where}.tools[{i}]") for i, each in enumerate(tools)]


def _read_mode(raw: Any, param: str) -> Literal["none", "auto", "required"]:
    for mode in _MODES:
        if raw == mode:
            return mode  # type: ignore[return-value]  # mypy widens the tuple's literals
    raise _invalid(param, "none, auto or required")


def _read_name(raw: Any, where: str) -> tuple[str, str]:
    function = raw.get("function") if isinstance(raw, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    param = f"{where}.function.name"
    if not isinstance(name, str):
        raise _invalid(param, "the name of one of 'tools'")
    return name, param


def _invalid(param: str, wanted: str, code: str = "invalid_value") -> InvalidRequest:
    return InvalidRequest(f"'{param}' must be {wanted}.", param=param, code=code)
