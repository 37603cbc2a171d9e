"""Write the answers of Kimi K3: the grammar of what `xtml_reader.py` reads.

A call may be written argument by argument, as the model mostly does, or with all of them as one
JSON object; where a schema asks more than arguments alone can be held to, as an object.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmplug import GrammarError
from llmplug.answer_parts import (
    arguments_of,
    list_members,
    repeat_calls,
    types_of,
    with_definitions,
    write_text,
)
from llmplug.grammar import Anything, Json, Node, OneOf, Regex, Repeat, Seq, Text, Until

if TYPE_CHECKING:
    from llmplug.dialect import Tool

_THINK, _THINK_END = "<|open|>think<|sep|>", "<|close|>think<|sep|>"
_RESPONSE, _RESPONSE_END = "<|open|>response<|sep|>", "<|close|>response<|sep|>"
_ARGUMENT_END = "<|close|>argument<|sep|>"


# --- answers ------------------------------------------------------------------------------------
def write_answer(text: Node | None, calls: Node | None, prompt_end: str) -> Node:
    """Thoughts, content, and calls; content that is empty is written too, but may be left out."""
    if text is not None and prompt_end and "<|open|>" not in prompt_end:
        return text  # the message has begun already
    rest = _write_rest(text, calls, has_begun=_is_open(prompt_end, _RESPONSE, _RESPONSE_END))
    end = Repeat(Text("<|close|>message<|sep|>"), 0, 1)
    return Seq([_write_thought(prompt_end), rest, end])


def _write_thought(prompt_end: str) -> Node:
    if _is_open(prompt_end, _THINK, _THINK_END):
        return Until(_THINK_END)
    if _THINK_END in prompt_end or _RESPONSE in prompt_end:
        return Text("")
    return Repeat(Seq([Text(_THINK), Until(_THINK_END)]), 0, 1)


def _write_rest(text: Node | None, calls: Node | None, *, has_begun: bool) -> Node:
    start = "" if has_begun else _RESPONSE
    empty: Node = Text(start + _RESPONSE_END)
    if not has_begun:
        empty = Repeat(empty, 0, 1)
    choices: list[Node] = []
    if text is not None:
        is_free = isinstance(text, Anything)
        body: Node = Until(_RESPONSE_END) if is_free else Seq([text, Text(_RESPONSE_END)])
        behind = [Repeat(calls, 0, 1)] if calls is not None and is_free else []
        choices.append(Seq([Text(start), body, *behind]))
    if calls is not None:
        choices.append(Seq([empty, calls]))
    return OneOf(choices)


def _is_open(prompt_end: str, start: str, end: str) -> bool:
    return prompt_end.rfind(start) > prompt_end.rfind(end)


# --- calls --------------------------------------------------------------------------------------
def write_calls(tools: Sequence[Tool], least: int, most: int | None) -> Node:
    """Calls, and the section that they stand in."""
    call = OneOf([_write_call(tool) for tool in tools])
    calls = repeat_calls(call, Text(""), least, most)
    return Seq([Text("<|open|>tools<|sep|>"), calls, Text("<|close|>tools<|sep|>")])


def _write_call(tool: Tool) -> Node:
    header: list[Node] = [
        Text(f'<|open|>call tool="{_escape(tool.name)}" index="'),
        Regex("[1-9][0-9]{0,3}"),
        Text('"<|sep|>'),
    ]
    whole: list[Node] = [
        Text('<|open|>json type="object"<|sep|>'),
        arguments_of(tool),
        Text("<|close|>json<|sep|>"),
    ]
    try:
        arguments: Node = OneOf([Seq(list(_write_arguments(tool))), Seq(whole)])
    except GrammarError:
        arguments = Seq(whole)
    return Seq([*header, arguments, Text("<|close|>call<|sep|>")])


def _write_arguments(tool: Tool) -> Iterator[Node]:
    """Each argument, in the schema's order.

    Raises:
        GrammarError: one of them, or what the schema asks of them all, cannot be written so.
    """
    members = list_members(tool.parameters, tool.name)
    if members.others is not None:
        raise GrammarError(f"the arguments of {tool.name!r} have no names")
    for each in members.known:
        argument = _write_argument(each.name, each.schema, tool.parameters)
        yield argument if each.is_required else Repeat(argument, 0, 1)


def _write_argument(key: str, schema: Any, root: Mapping[str, Any]) -> Node:
    types = types_of(schema, root) or frozenset()
    kinds = types - {"integer"} or types
    if len(kinds) != 1:
        raise GrammarError(f"the type of {key!r} is not known")
    (kind,) = kinds
    name = "number" if kind == "integer" else kind
    header = Text(f'<|open|>argument key="{_escape(key)}" type="{name}"<|sep|>')
    if kind == "string":
        return Seq([header, write_text(schema, root, key, end=_ARGUMENT_END)])
    return Seq([header, Json(with_definitions(schema, root)), Text(_ARGUMENT_END)])


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;")
