"""Tools for templates that have no place for them: told, called and answered in plain messages.

Only for dialects whose arguments are JSON: their tables say how a call is written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmplug.dialect import JsonCalls, NamedCalls
from llmplug.errors import InvalidRequest

if TYPE_CHECKING:
    from llmplug.chat.messages import MessageShape
    from llmplug.specs import ToolParserSpec

Message = Mapping[str, Any]
WrittenCalls = JsonCalls | NamedCalls


def find_written_calls(spec: ToolParserSpec | None) -> WrittenCalls | None:
    """Return the table by which calls can be written as text, if the dialect has one."""
    syntax = spec.syntax[0] if spec is not None and spec.syntax else None
    return syntax if isinstance(syntax, WrittenCalls) else None


def put_tools_in_text(
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]],
    syntax: WrittenCalls,
    shape: MessageShape,
) -> tuple[list[Message], list[Mapping[str, Any]]]:
    """Say in messages what the template cannot.

    Returns:
        The messages, and the tools that the template is to show itself.
    Raises:
        InvalidRequest: the arguments of a call are no JSON; `param` says where.
    """
    written = list(messages)
    if not shape.takes_tool_calls:
        written = _write_calls(written, syntax)
    if tools and not shape.takes_tools:
        return _add_to_system(written, describe_tools(tools, syntax)), []
    return written, list(tools)


def describe_tools(tools: Sequence[Mapping[str, Any]], syntax: WrittenCalls) -> str:
    """Tell a model its tools, and how it calls one."""
    lines = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    example = _write_one(syntax, "NAME", {"ARGUMENT": "VALUE"})
    return (
        f"You can call these functions:\n{lines}\n"
        f"To call one, write a line like this, with its name and arguments:\n{example}"
    )


def _write_calls(messages: Sequence[Message], syntax: WrittenCalls) -> list[Message]:
    """Turn calls into text of the assistant, and results into messages of the user."""
    written: list[Message] = []
    names: dict[str, str] = {}  # of functions, by the id of a call
    for i, message in enumerate(messages):
        if message.get("tool_calls"):
            written.append(_write_answer(message, f"messages[{i}].tool_calls", syntax))
            names |= {call["id"]: call["function"]["name"] for call in message["tool_calls"]}
        elif message.get("role") == "tool":
            name = names.get(str(message.get("tool_call_id")), "the function")
            result = f"Result of {name}:\n{_text_of(message.get('content'))}"
            if i and messages[i - 1].get("role") == "tool":  # one message answers all the calls
                result = f"{written.pop()['content']}\n\n{result}"
            written.append({"role": "user", "content": result})
        else:
            written.append(message)
    return written


def _write_answer(message: Message, place: str, syntax: WrittenCalls) -> Message:
    calls = [
        _write_one(syntax, call["function"]["name"], _read_arguments(call, f"{place}[{j}]"))
        for j, call in enumerate(message["tool_calls"])
    ]
    text = "\n".join([_text_of(message.get("content")), *calls]).strip()
    rest = {key: value for key, value in message.items() if key != "tool_calls"}
    return {**rest, "content": text}


def _read_arguments(call: Mapping[str, Any], place: str) -> Any:
    arguments = call["function"]["arguments"]
    if not isinstance(arguments, str):
        return arguments
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(
            f"arguments are no JSON: {error}", param=f"{place}.function.arguments"
        ) from error


def _write_one(syntax: WrittenCalls, name: str, arguments: Any) -> str:
    if isinstance(syntax, NamedCalls):
        return _write_named(syntax, name, arguments)
    call = {syntax.name_key: name, syntax.arguments_key[0]: arguments}
    if not syntax.name_key:
        call = {name: arguments}
    text = json.dumps([call] if syntax.holds == "list" else call, ensure_ascii=False)
    return f"{syntax.start[0] if syntax.start else ''}{text}{syntax.end}"


def _write_named(syntax: NamedCalls, name: str, arguments: Any) -> str:
    start, end = syntax.section or ("", "")
    written = syntax.name_format.replace("{name}", name).replace("{index}", "0")
    text = json.dumps(arguments, ensure_ascii=False)
    return f"{start}{syntax.start}{written}{syntax.after_name}{text}{syntax.end}{end}"


def _add_to_system(messages: Sequence[Message], text: str) -> list[Message]:
    if not messages or messages[0].get("role") != "system":
        return [{"role": "system", "content": text}, *messages]
    first = messages[0]
    told = f"{_text_of(first.get('content'))}\n\n{text}"
    return [{**first, "content": told}, *messages[1:]]


def _text_of(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content)
    return content or ""
