"""What the grammars of all call tables have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llmplug.errors import GrammarError
from llmplug.grammar import Json, Node, OneOf, Repeat, Seq, Text

if TYPE_CHECKING:
    from llmplug.dialect import Tool


def arguments_of(tool: Tool) -> Json:
    """The JSON object that a tool takes.

    Raises:
        GrammarError: its schema asks for something that is no object.
    """
    schema: dict[str, Any] = dict(tool.parameters)
    kinds = schema.get("type", "object")
    if "object" not in ([kinds] if isinstance(kinds, str) else kinds):
        raise GrammarError(f"'type': the arguments of {tool.name!r} must be an object")
    return Json({**schema, "type": "object"})


def repeat_calls(call: Node, between: Node, least: int, most: int | None) -> Node:
    """`least` to `most` calls, and what stands between them."""
    if most == 1:
        return call if least else Repeat(call, 0, 1)
    more = Repeat(Seq([between, call]), max(0, least - 1), None if most is None else most - 1)
    calls = Seq([call, more])
    return calls if least else Repeat(calls, 0, 1)


def list_arguments(arguments: Sequence[Node], between: str, num_required: int) -> Node:
    """All of the first, any of the others in their order, and a text between any two."""
    if num_required:
        return Seq([arguments[0], *_follow_up(arguments[1:], between, num_required - 1)])
    beginnings: list[Node] = [
        Seq([each, *_follow_up(arguments[i + 1 :], between, 0)]) for i, each in enumerate(arguments)
    ]
    return Repeat(OneOf(beginnings), 0, 1)


def _follow_up(arguments: Sequence[Node], between: str, num_required: int) -> list[Node]:
    parts: list[Node] = [Seq([Text(between), each]) for each in arguments]
    return [part if i < num_required else Repeat(part, 0, 1) for i, part in enumerate(parts)]
